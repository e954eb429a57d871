"""Random blocks of the GGUF types that the reference quantizer cannot make: any codes, scales that are all alike."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

_SCALE = 8  # the whole number that scales and minimums are, in each type's own packing


@dataclass(frozen=True, slots=True)
class _Layout:
    """Bytes of a block that are not codes: where they begin, and what they are."""

    scales: tuple[int, bytes]
    factor: int  # where the fp16 of the scales lies
    minimum_factor: int | None = None


_LAYOUTS: Mapping[str, _Layout] = {
    "Q2_K": _Layout((0, bytes([_SCALE | _SCALE << 4] * 16)), 80, 82),
    "Q3_K": _Layout((96, bytes([0x88] * 8 + [0xAA] * 4)), 108),  # 40 - 32
    "Q4_K": _Layout((4, bytes([_SCALE] * 8 + [0x88] * 4)), 0, 2),
    "Q5_K": _Layout((4, bytes([_SCALE] * 8 + [0x88] * 4)), 0, 2),
    "Q6_K": _Layout((192, bytes([_SCALE] * 16)), 208),
    "IQ4_NL": _Layout((0, b""), 0),
    "IQ4_XS": _Layout((2, bytes([0xAA, 0xAA] + [0x88] * 4)), 0),  # 40 - 32
}
TYPES = tuple(_LAYOUTS)


def random_blocks(rng: np.random.Generator, type: str, rows: int, columns: int, deviation: float) -> np.ndarray:
    """[rows, row_bytes] uint8 of weights with mean 0, or little beside it, and this standard deviation."""
    block_weights, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[type]]
    layout, n_blocks = _LAYOUTS[type], rows * columns // block_weights
    blocks = rng.integers(0, 256, (n_blocks, block_bytes), np.uint8)
    at, scales = layout.scales
    blocks[:, at : at + len(scales)] = np.frombuffer(scales, np.uint8)
    _set(blocks, layout.factor, 1.0)
    if layout.minimum_factor is not None:
        _set(blocks, layout.minimum_factor, 0.0)
    sample = dequantize(blocks[:64], GGMLQuantizationType[type])
    if layout.minimum_factor is not None:
        _set(blocks, layout.minimum_factor, sample.mean() / _SCALE * deviation / sample.std())
    _set(blocks, layout.factor, deviation / sample.std())
    return blocks.reshape(rows, -1)


def _set(blocks: np.ndarray, at: int, value: float) -> None:
    blocks[:, at : at + 2] = np.array([value], np.float16).view(np.uint8)

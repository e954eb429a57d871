"""Random matrices in each format of a pack, those that numbers are not rounded to included."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tpid.model.weights import CODINGS, F32, GROUP, CodedMatrix, Format, Matrix, Scales, quantize

SUPER_GROUPS = 8


def random_matrix(rng: np.random.Generator, rows: int, columns: int, format: Format, size: float = 1.0) -> Matrix:
    """Weights of about `size`; any codes, and small scales of either sign where a type has such."""
    if format not in CODINGS:
        return quantize(rng.standard_normal((rows, columns), np.float32) * np.float32(size), format)
    coding, groups = CODINGS[format], -(-columns // GROUP)
    shape = rows, groups, coding.per_group
    codes = rng.integers(0, 1 << (coding.low_bits + coding.high_bits), (rows, groups, GROUP), np.uint8)
    largest = max(coding.codebook) if coding.codebook else max(1 << (coding.low_bits + coding.high_bits), 2)
    step = size / largest
    if coding.scales is Scales.HALVES:
        minimums = (rng.standard_normal(shape) * size).astype(np.float16) if coding.minimum else None
        return CodedMatrix(format, codes, (rng.standard_normal(shape) * step).astype(np.float16), minimums)
    if coding.scales is Scales.EXPONENTS:
        exponents = 128 + int(np.log2(step)) + rng.integers(-2, 3, shape)
        return CodedMatrix(format, codes, exponents.astype(np.uint8))
    low, high, dtype = _RANGES[coding.scales, coding.minimum]
    scales, factors = rng.integers(low, high, shape, dtype), _factors(rng, rows, groups, step / high)
    if not coding.minimum:
        return CodedMatrix(format, codes, scales, None, factors)
    minimums = rng.integers(low, high, shape, dtype)
    both = np.concatenate((factors, _factors(rng, rows, groups, size / high)), axis=-1)
    return CodedMatrix(format, codes, scales, minimums, both)


_RANGES = {
    (Scales.NIBBLES, True): (0, 16, np.uint8),
    (Scales.SIXES, True): (0, 64, np.uint8),
    (Scales.SIXES, False): (-32, 32, np.int8),
    (Scales.BYTES, False): (-128, 128, np.int8),
}


def _factors(rng: np.random.Generator, rows: int, groups: int, size: float) -> NDArray[np.float16]:
    """[rows, groups, 1], the same in each super-block."""
    blocks = rng.standard_normal((rows, -(-groups // SUPER_GROUPS), 1)) * size
    return blocks.astype(np.float16).repeat(SUPER_GROUPS, axis=1)[:, :groups]


def sums_apart(matrix: Matrix) -> F32 | None:
    """[rows, columns] of what a kernel may add apart from the products of codes: minimums, and scales times zeros.

    Its rounding is relative to this, however small the weights are.
    """
    if isinstance(matrix, CodedMatrix):
        coding = CODINGS[matrix.format]
        if not coding.zero and not coding.minimum:
            return None
        at_zero = np.abs(replace(matrix, codes=np.zeros_like(matrix.codes)).dequantize())
        largest = at_zero.reshape(*matrix.codes.shape).max(axis=-1)  # of two halves: their sums are added as one
        return largest.repeat(GROUP, axis=1)
    minimums: NDArray[np.float16] | None = getattr(matrix, "minimums", None)
    return None if minimums is None else minimums.astype(np.float32).repeat(GROUP, axis=1)

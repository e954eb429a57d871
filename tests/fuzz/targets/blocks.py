"""Weights of a GGUF file: blocks of any bytes to a matrix, to tiles of the pack, and back."""

import numpy as np

from tpid.errors import ModelFileError
from tpid.model.finite import require_finite
from tpid.model.gguf.blocks import NATURAL_FORMAT, U8, blocks_to_matrix
from tpid.model.gguf.rounded import ROUNDED_FORMAT, dequantize_rounded, round_values
from tpid.model.gguf.types import GgmlType
from tpid.model.weights import GROUP, Matrix
from tpid.pack.tiles import dequantize_tiles, pack_tiles

_TYPES = (*NATURAL_FORMAT, *ROUNDED_FORMAT)
_MAX_BYTES = 1 << 16


def fuzz(data: bytes) -> None:
    """The first byte names the type, the second the blocks of a row."""
    if len(data) < 2:
        return
    type, blocks = _TYPES[data[0] % len(_TYPES)], 1 + data[1] % 9
    row_bytes = _blocks_of_groups(type, blocks) * type.block_bytes
    raw = np.frombuffer(data[2 : 2 + _MAX_BYTES], np.uint8)
    rows = raw.size // row_bytes
    matrix = _matrix(type, raw[: rows * row_bytes].reshape(rows, row_bytes))
    with np.errstate(all="ignore"):
        values = matrix.dequantize()
        found = dequantize_tiles(pack_tiles(matrix), rows, matrix.shape[1], matrix.format)
    np.testing.assert_array_equal(found, values)
    try:
        require_finite(matrix, "fuzz", 0)
    except ModelFileError as error:
        assert len(str(error)) < 10_000
    else:
        assert np.isfinite(values).all()


def _matrix(type: GgmlType, raw: U8) -> Matrix:
    if type in ROUNDED_FORMAT:
        return round_values(type, dequantize_rounded(type, raw))
    return blocks_to_matrix(type, raw, NATURAL_FORMAT[type])


def _blocks_of_groups(type: GgmlType, blocks: int) -> int:
    """Of the types without blocks, as many numbers as a group has."""
    return blocks if type.block_weights > 1 else blocks * GROUP

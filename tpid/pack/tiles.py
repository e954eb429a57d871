"""Tiles of 8 rows x 32 inputs, laid out so that a vector instruction's lanes are rows.

A kernel that multiplies such a tile by 32 activations needs no sum across lanes:

w4   8 fp16 scales, 8 fp16 minimums, 4 vectors of 32 bytes; in vector j the 32-bit lane r holds row r's
     inputs 8j…8j+3 in the low nibbles and 8j+4…8j+7 in the high ones
w4s  the same without the minimums
w8   8 fp16 scales, 8 vectors of 32 bytes; in vector j lane r holds row r's inputs 4j…4j+3
f16, bf16   32 vectors of 16 bytes; in vector j the 16-bit lane r holds row r's input j
others      scales, then the codes' low bits, then their high bits: docs/pack-format.md

Tiles of a band of 8 rows follow each other along the input; bands follow each other. Rows and inputs
beyond the matrix are zeros.
"""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tpid.model.weights import CODINGS, F32, CodedMatrix, Format, HalfMatrix, Matrix, W4Matrix, W4SMatrix, W8Matrix
from tpid.pack.coded_tiles import pack_coded, unpack_coded
from tpid.pack.geometry import TILE_COLUMNS, TILE_ROWS, band_bytes

U8 = NDArray[np.uint8]
Scalar = TypeVar("Scalar", bound=np.generic)

_HALF_TILE = np.dtype([("bits", "<u2", (32, 8))])
_TILE: Mapping[Format, np.dtype[np.void]] = {
    Format.W4: np.dtype([("scales", "<f2", 8), ("minimums", "<f2", 8), ("quants", "u1", (4, 8, 4))]),
    Format.W4S: np.dtype([("scales", "<f2", 8), ("quants", "u1", (4, 8, 4))]),
    Format.W8: np.dtype([("scales", "<f2", 8), ("quants", "i1", (8, 8, 4))]),
    Format.F16: _HALF_TILE,
    Format.BF16: _HALF_TILE,
}


def pack_tiles(matrix: Matrix) -> U8:
    """The bytes of `matrix` as tiles, [n] uint8."""
    rows, columns = matrix.shape
    bands, tiles = -(-rows // TILE_ROWS), -(-columns // TILE_COLUMNS)
    if isinstance(matrix, CodedMatrix):
        return pack_coded(matrix)
    packed = np.zeros((bands, tiles), _TILE[matrix.format])
    if isinstance(matrix, W4Matrix | W4SMatrix):
        quants = _bands(matrix.quants, bands).reshape(bands, 8, tiles, 4, 2, 4)
        nibbles = quants[..., 0, :] | (quants[..., 1, :] << np.uint8(4))
        packed["quants"] = nibbles.transpose(0, 2, 3, 1, 4)
        packed["scales"] = _bands(matrix.scales, bands).transpose(0, 2, 1)
        if isinstance(matrix, W4Matrix):
            packed["minimums"] = _bands(matrix.minimums, bands).transpose(0, 2, 1)
    elif isinstance(matrix, W8Matrix):
        packed["quants"] = _bands(matrix.quants, bands).reshape(bands, 8, tiles, 8, 4).transpose(0, 2, 3, 1, 4)
        packed["scales"] = _bands(matrix.scales, bands).transpose(0, 2, 1)
    else:
        padded = np.zeros((rows, tiles * TILE_COLUMNS), np.uint16)
        padded[:, :columns] = matrix.bits
        packed["bits"] = _bands(padded, bands).reshape(bands, 8, tiles, 32).transpose(0, 2, 3, 1)
    return packed.reshape(-1).view(np.uint8)


def unpack_tiles(data: U8, rows: int, columns: int, format: Format) -> Matrix:
    """The matrix that `pack_tiles` was given; grouped formats keep their zero columns up to a multiple of 32."""
    bands, tiles = -(-rows // TILE_ROWS), -(-columns // TILE_COLUMNS)
    size = band_bytes(format, tiles)
    data = data[: bands * size]
    if format in CODINGS:
        return unpack_coded(data.reshape(bands, size), tiles, format).rows(slice(rows))
    packed = data.view(_TILE[format]).reshape(bands, tiles)
    if format in (Format.F16, Format.BF16):
        bits = packed["bits"].transpose(0, 3, 1, 2).reshape(bands * TILE_ROWS, tiles * TILE_COLUMNS)
        return HalfMatrix(bits[:rows, :columns], format)
    vectors = packed["quants"].shape[2]
    lanes = packed["quants"].transpose(0, 3, 1, 2, 4).reshape(bands * TILE_ROWS, tiles, vectors, 4)
    minimums = _unband(packed["minimums"])[:rows] if format is Format.W4 else None
    return _grouped(format, lanes[:rows], _unband(packed["scales"])[:rows], minimums)


def unpack_rows(bands: U8, lanes: NDArray[np.intp], columns: int, format: Format) -> Matrix:
    """Row `lanes[i]` of band i, for all i: bands [n, band_bytes] uint8, lanes [n] -> a matrix of n rows."""
    if format in CODINGS:
        every = unpack_coded(bands, -(-columns // TILE_COLUMNS), format)
        return every.rows(np.arange(len(bands)) * TILE_ROWS + lanes)
    packed, each = bands.view(_TILE[format]), np.arange(len(bands))
    if format in (Format.F16, Format.BF16):
        bits = packed["bits"][each, :, :, lanes].reshape(len(bands), packed.shape[1] * TILE_COLUMNS)
        return HalfMatrix(bits[:, :columns], format)
    minimums = packed["minimums"][each, :, lanes] if format is Format.W4 else None
    return _grouped(format, packed["quants"][each, :, :, lanes], packed["scales"][each, :, lanes], minimums)


def _grouped(
    format: Format,
    lanes: NDArray[np.uint8] | NDArray[np.int8],
    scales: NDArray[np.float16],
    minimums: NDArray[np.float16] | None,
) -> Matrix:
    """lanes [rows, tiles, vectors, 4], scales and minimums [rows, tiles]"""
    shape = *scales.shape, TILE_COLUMNS
    if format is Format.W8:
        return W8Matrix(lanes.view(np.int8).reshape(shape), scales)
    nibbles = lanes.view(np.uint8)
    quants = np.stack((nibbles & np.uint8(15), nibbles >> np.uint8(4)), axis=-2).reshape(shape)
    return W4SMatrix(quants, scales) if minimums is None else W4Matrix(quants, scales, minimums)


def dequantize_tiles(data: U8, rows: int, columns: int, format: Format) -> F32:
    """fp32 [rows, columns] of a tiled matrix."""
    return unpack_tiles(data, rows, columns, format).dequantize()[:, :columns]


def _bands(values: NDArray[Scalar], bands: int) -> NDArray[Scalar]:
    """[rows, …] padded with zero rows and seen as [bands, 8, …]."""
    rows = values.shape[0]
    if rows != bands * TILE_ROWS:
        padded = np.zeros((bands * TILE_ROWS, *values.shape[1:]), values.dtype)
        padded[:rows] = values
        values = padded
    return values.reshape(bands, TILE_ROWS, *values.shape[1:])


def _unband(values: NDArray[np.float16]) -> NDArray[np.float16]:
    """[bands, tiles, 8] -> [bands * 8, tiles]"""
    bands, tiles, _ = values.shape
    return values.transpose(0, 2, 1).reshape(bands * TILE_ROWS, tiles)

"""Tiles of the formats of `CODINGS`: scales, then the codes' bits, low ones first.

`low_bits` and `high_bits` are planes of 1, 2 or 4 bits of each code. A plane of b bits is b vectors of 32 bytes, whose
32-bit lanes are rows, and a byte holds its bits of 8 / b inputs. Of the inputs 4k…4k + 3 byte i of the lane has that of
input 4k + i, at `_place(b, k)`: where all 8 rows' inputs of one k become a vector by one shift and one mask.

A run of tiles (geometry.run_tiles) begins with the fp16 factors of its super-block.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tpid.model.weights import CODINGS, GROUP, CodedMatrix, Coding, Format, Scales
from tpid.pack.geometry import FACTOR_BYTES, TILE_BYTES, TILE_ROWS, run_tiles

U8 = NDArray[np.uint8]
Scalar = TypeVar("Scalar", bound=np.generic)

_SIXES_ZERO = 32  # two scales of 6 bits lie plus this


def pack_coded(matrix: CodedMatrix) -> U8:
    """The bytes of `matrix` as tiles, [n] uint8; rows beyond it are zeros."""
    rows, n_tiles, _ = matrix.codes.shape
    bands, run = -(-rows // TILE_ROWS), run_tiles(n_tiles)
    packed = np.zeros((bands, n_tiles // run), _layout(matrix.format, run))
    coding, tiles = CODINGS[matrix.format], packed["tiles"]
    codes = _lanes(matrix.codes, bands).reshape(bands, n_tiles // run, run, TILE_ROWS, 8, 4)
    tiles["low"] = _plane(codes & np.uint8((1 << coding.low_bits) - 1), coding.low_bits)
    if coding.high_bits:
        tiles["high"] = _plane(codes >> np.uint8(coding.low_bits), coding.high_bits)
    tiles["scales"] = _written(matrix, coding, bands).reshape(tiles["scales"].shape)
    if matrix.factors is not None:
        packed["factors"] = _lanes(matrix.factors, bands)[:, ::run].transpose(0, 1, 3, 2)
    return packed.reshape(-1).view(np.uint8)


def unpack_coded(bands: U8, n_tiles: int, format: Format) -> CodedMatrix:
    """[n, band_bytes] uint8 -> a matrix of 8 n rows and 32 n_tiles columns."""
    n, coding, run = len(bands), CODINGS[format], run_tiles(n_tiles)
    packed = np.ascontiguousarray(bands).view(_layout(format, run)).reshape(n, n_tiles // run)
    tiles = packed["tiles"].reshape(n, n_tiles)
    codes = _of_plane(tiles["low"], coding.low_bits)
    if coding.high_bits:
        codes |= _of_plane(tiles["high"], coding.high_bits) << np.uint8(coding.low_bits)
    scales, minimums = _read(np.ascontiguousarray(tiles["scales"]), coding)
    factors = None
    if coding.super_block:
        factors = _rows(packed["factors"]).repeat(run, axis=1)
    return CodedMatrix(format, codes, scales, minimums, factors)


def _layout(format: Format, run: int) -> np.dtype[np.void]:
    coding = CODINGS[format]
    planes = [("low", "u1", (coding.low_bits, TILE_ROWS, 4)), ("high", "u1", (coding.high_bits, TILE_ROWS, 4))]
    scale_bytes = TILE_BYTES[format] - 32 * (coding.low_bits + coding.high_bits)
    tile = np.dtype([("scales", "u1", scale_bytes), *(plane for plane in planes if plane[2][0])])
    factors = [("factors", "<f2", (FACTOR_BYTES[format] // 16, TILE_ROWS))] if coding.super_block else []
    return np.dtype([*factors, ("tiles", tile, run)])


def _place(bits: int, k: int) -> tuple[int, int]:
    """Vector of a plane and shift in its bytes of the inputs 4k…4k + 3."""
    if bits == 4:
        return k // 2, k % 2 * 4
    if bits == 2:
        return k // 2 % 2, (k % 2 + k // 4 * 2) * 2
    return 0, k


def _plane(values: U8, bits: int) -> U8:
    """values [bands, runs, tiles, 8 rows, 8, 4] -> [bands, runs, tiles, bits, 8 rows, 4]"""
    out = np.zeros((*values.shape[:3], bits, TILE_ROWS, 4), np.uint8)
    for k in range(8):
        vector, shift = _place(bits, k)
        out[..., vector, :, :] |= values[..., k, :] << np.uint8(shift)
    return out


def _of_plane(plane: U8, bits: int) -> U8:
    """[bands, tiles, bits, 8 rows, 4] -> [rows, tiles, 32]"""
    bands, tiles = plane.shape[:2]
    out = np.empty((bands, TILE_ROWS, tiles, 8, 4), np.uint8)
    for k in range(8):
        vector, shift = _place(bits, k)
        out[:, :, :, k] = ((plane[:, :, vector] >> np.uint8(shift)) & np.uint8((1 << bits) - 1)).transpose(0, 2, 1, 3)
    return out.reshape(bands * TILE_ROWS, tiles, GROUP)


def _written(matrix: CodedMatrix, coding: Coding, bands: int) -> U8:
    """The scales' bytes of each tile, [bands, tiles, scale_bytes]; each is 8 rows wide: lanes."""
    scales = _bytes(matrix.scales, bands)
    minimums = None if matrix.minimums is None else _bytes(matrix.minimums, bands)
    if coding.scales is Scales.HALVES:
        return scales if minimums is None else np.concatenate((scales, minimums), axis=2)
    if coding.scales is Scales.NIBBLES:
        assert minimums is not None
        return scales | (minimums << np.uint8(4))
    if coding.scales is not Scales.SIXES:
        return scales
    if minimums is None:
        both = scales + np.uint8(_SIXES_ZERO)  # int8 and uint8 wrap alike
        first, second = both[:, :, 0], both[:, :, 1]
    else:
        first, second = scales[:, :, 0], minimums[:, :, 0]
    nibbles = second >> np.uint8(2)
    pairs = nibbles[..., ::2] | (nibbles[..., 1::2] << np.uint8(4))
    return np.concatenate((first | (second << np.uint8(6)), pairs), axis=-1)


def _read(
    written: U8, coding: Coding
) -> tuple[NDArray[np.float16] | NDArray[np.int8] | U8, NDArray[np.float16] | U8 | None]:
    """Scales and minimums [rows, tiles, per_group] of [bands, tiles, scale_bytes]."""
    bands, tiles, _ = written.shape
    if coding.scales is Scales.HALVES:
        halves = _rows(written.view("<f2").reshape(bands, tiles, 1 + coding.minimum, TILE_ROWS))
        return halves[..., :1], halves[..., 1:] if coding.minimum else None
    if coding.scales is Scales.NIBBLES:
        both = _rows(written.reshape(bands, tiles, coding.per_group, TILE_ROWS))
        return both & np.uint8(15), both >> np.uint8(4)
    if coding.scales is Scales.EXPONENTS:
        return _rows(written.reshape(bands, tiles, coding.per_group, TILE_ROWS)), None
    if coding.scales is Scales.BYTES:
        return _rows(written.view(np.int8).reshape(bands, tiles, coding.per_group, TILE_ROWS)), None
    low, nibbles = written[..., :TILE_ROWS], written[..., TILE_ROWS:]
    high = np.stack((nibbles & np.uint8(15), nibbles >> np.uint8(4)), axis=-1).reshape(low.shape)
    both = _rows(np.stack((low & np.uint8(63), (low >> np.uint8(6)) | (high << np.uint8(2))), axis=2))
    if coding.minimum:
        return both[..., :1], both[..., 1:]
    return both.view(np.int8) - np.int8(_SIXES_ZERO), None


def _bytes(scales: NDArray[Scalar], bands: int) -> U8:
    """[rows, tiles, n] of any size -> [bands, tiles, n, 8 rows' bytes]"""
    return np.ascontiguousarray(_lanes(scales, bands).transpose(0, 1, 3, 2)).view(np.uint8)


def _lanes(values: NDArray[Scalar], bands: int) -> NDArray[Scalar]:
    """[rows, tiles, n] padded with zero rows: [bands, tiles, 8, n]"""
    padded = np.zeros((bands * TILE_ROWS, *values.shape[1:]), values.dtype)
    padded[: len(values)] = values
    return padded.reshape(bands, TILE_ROWS, *values.shape[1:]).transpose(0, 2, 1, 3)


def _rows(values: NDArray[Scalar]) -> NDArray[Scalar]:
    """[bands, tiles, n, 8] -> [rows, tiles, n]"""
    bands, tiles, n, _ = values.shape
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2)).reshape(bands * TILE_ROWS, tiles, n)

"""GGML blocks to the matrices of a pack, exactly, and to fp32.

Block layouts follow ggml's ggml-common.h. The bits of a code, its scale and its minimum stay what they are; only where
they lie changes (tpid.model.weights.CODINGS, tpid.pack.tiles).
"""

import math
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tpid.model.gguf.types import GgmlType
from tpid.model.weights import (
    F32,
    GROUP,
    CodedMatrix,
    Format,
    HalfMatrix,
    Matrix,
    W4Matrix,
    W4SMatrix,
    W8Matrix,
    quantize,
)

U8 = NDArray[np.uint8]
Scalar = TypeVar("Scalar", bound=np.generic)
_Struct = NDArray[np.void]  # [rows, blocks of a row]

# F32 is absent: whether f16 can hold it depends on the values.
NATURAL_FORMAT: Mapping[GgmlType, Format] = {
    GgmlType.F16: Format.F16,
    GgmlType.BF16: Format.BF16,
    GgmlType.Q4_0: Format.W4S,
    GgmlType.Q4_1: Format.W4,
    GgmlType.Q5_0: Format.Q5_0,
    GgmlType.Q5_1: Format.Q5_1,
    GgmlType.Q8_0: Format.W8,
    GgmlType.Q2_K: Format.Q2_K,
    GgmlType.Q3_K: Format.Q3_K,
    GgmlType.Q4_K: Format.Q4_K,
    GgmlType.Q5_K: Format.Q5_K,
    GgmlType.Q6_K: Format.Q6_K,
    GgmlType.IQ4_NL: Format.IQ4_NL,
    GgmlType.IQ4_XS: Format.IQ4_XS,
    GgmlType.MXFP4: Format.MXFP4,
}
GROUPS = 8  # of 32 weights in a super-block of 256

_NIBBLE, _TWO_BITS = np.uint8(15), np.uint8(3)


def dequantize_blocks(type: GgmlType, raw: U8) -> F32:
    """Exact fp32 values [n * block_weights] of `raw` [n * block_bytes] uint8; damaged scales give NaN or infinity."""
    with np.errstate(all="ignore"):
        if type is GgmlType.F32:
            return raw.view("<f4").astype(np.float32)
        return blocks_to_matrix(type, raw.reshape(1, -1), NATURAL_FORMAT[type]).dequantize().reshape(-1)


def blocks_to_matrix(type: GgmlType, raw: U8, format: Format) -> Matrix:
    """Rows of blocks, [rows, row_bytes] uint8, in `format`: the type's NATURAL_FORMAT, for F32 either half.

    Exact for all but F32. Damaged scales stay: see tpid.model.finite.
    """
    if type in (GgmlType.F16, GgmlType.BF16):
        return HalfMatrix(raw.view("<u2").astype(np.uint16, copy=False), format)
    if type is GgmlType.F32:
        with np.errstate(all="ignore"):
            return quantize(raw.view("<f4").astype(np.float32, copy=False), format)
    layout, decode = _DECODERS[type]
    return decode(np.ascontiguousarray(raw).view(layout))


def _q4_0(blocks: _Struct) -> Matrix:
    return W4SMatrix(_nibbles(blocks["qs"], 16), blocks["d"].astype(np.float16))


def _q4_1(blocks: _Struct) -> Matrix:
    return W4Matrix(_nibbles(blocks["qs"], 16), blocks["d"].astype(np.float16), blocks["m"].astype(np.float16))


def _q5_0(blocks: _Struct) -> Matrix:
    return CodedMatrix(Format.Q5_0, _five_bits(blocks), _each(blocks["d"]))


def _q5_1(blocks: _Struct) -> Matrix:
    return CodedMatrix(Format.Q5_1, _five_bits(blocks), _each(blocks["d"]), _each(blocks["m"]))


def _q8_0(blocks: _Struct) -> Matrix:
    return W8Matrix(np.ascontiguousarray(blocks["qs"]), blocks["d"].astype(np.float16))


def _iq4_nl(blocks: _Struct) -> Matrix:
    return CodedMatrix(Format.IQ4_NL, _nibbles(blocks["qs"], 16), _each(blocks["d"]))


def _mxfp4(blocks: _Struct) -> Matrix:
    return CodedMatrix(Format.MXFP4, _nibbles(blocks["qs"], 16), _each(blocks["e"]))


def _q2_k(blocks: _Struct) -> Matrix:
    codes = _codes(_shifted(blocks["qs"], 32, (0, 2, 4, 6)) & _TWO_BITS)
    scales: U8 = _grouped(blocks["scales"], 2)
    return CodedMatrix(
        Format.Q2_K, codes, scales & _NIBBLE, scales >> np.uint8(4), _factors(blocks["d"], blocks["dmin"])
    )


def _q3_k(blocks: _Struct) -> Matrix:
    codes = _codes(_shifted(blocks["qs"], 32, (0, 2, 4, 6)) & _TWO_BITS)
    codes |= _codes(_shifted(blocks["hmask"], 32, range(8)) & np.uint8(1)) << np.uint8(2)
    # 16 scales of 6 bits: low nibbles in 8 bytes, then the upper pairs of bits in 4.
    packed = blocks["scales"]
    low = _shifted(packed[..., :8], 8, (0, 4)) & 15
    high = _shifted(packed[..., 8:], 4, (0, 2, 4, 6)) & 3
    shape = *packed.shape[:2], 16
    scales = (low.reshape(shape) | (high.reshape(shape) << 4)).view(np.int8) - np.int8(32)
    return CodedMatrix(Format.Q3_K, codes, _grouped(scales, 2), None, _factors(blocks["d"]))


def _q4_k(blocks: _Struct) -> Matrix:
    scales, minimums = _k_scales(blocks["scales"])
    return CodedMatrix(Format.Q4_K, _nibbles(blocks["qs"], 32), scales, minimums, _factors(blocks["d"], blocks["dmin"]))


def _q5_k(blocks: _Struct) -> Matrix:
    scales, minimums = _k_scales(blocks["scales"])
    codes = _nibbles(blocks["qs"], 32) | (_codes(_shifted(blocks["qh"], 32, range(8)) & np.uint8(1)) << np.uint8(4))
    return CodedMatrix(Format.Q5_K, codes, scales, minimums, _factors(blocks["d"], blocks["dmin"]))


def _q6_k(blocks: _Struct) -> Matrix:
    low = _codes(_shifted(blocks["ql"], 64, (0, 4)) & _NIBBLE)
    high = _codes(_shifted(blocks["qh"], 32, (0, 2, 4, 6)) & _TWO_BITS)
    return CodedMatrix(
        Format.Q6_K, low | (high << np.uint8(4)), _grouped(blocks["scales"], 2), None, _factors(blocks["d"])
    )


def _iq4_xs(blocks: _Struct) -> Matrix:
    low = _shifted(blocks["scales_l"], 1, (0, 4)).reshape(*blocks.shape, GROUPS) & 15
    high = (blocks["scales_h"][..., None] >> np.arange(0, 16, 2, dtype=np.uint16)).astype(np.uint8) & 3
    scales = (low | (high << 4)).view(np.int8) - np.int8(32)
    return CodedMatrix(Format.IQ4_XS, _nibbles(blocks["qs"], 16), _grouped(scales, 1), None, _factors(blocks["d"]))


def _k_scales(packed: U8) -> tuple[U8, U8]:
    """Scales and minimums [rows, groups, 1] of Q4_K and Q5_K: 6 bits each in 12 bytes.

    Bytes 0…3 and 4…7 hold scales 0…3 and minimums 0…3 in their low 6 bits, and in the upper 2 those of
    scales 4…7 and minimums 4…7, whose lower 4 bits are the nibbles of bytes 8…11.
    """
    first, second, third = (packed[..., at : at + 4] for at in (0, 4, 8))
    scales = np.concatenate((first & 63, (third & 15) | (first >> 6 << 4)), axis=-1)
    minimums = np.concatenate((second & 63, (third >> 4) | (second >> 6 << 4)), axis=-1)
    return _grouped(scales, 1), _grouped(minimums, 1)


def _five_bits(blocks: _Struct) -> U8:
    """[rows, groups, 32]: nibbles, and the fifth bits in a little-endian word."""
    high = np.unpackbits(blocks["qh"], axis=-1, bitorder="little")
    return _nibbles(blocks["qs"], 16) | (high << np.uint8(4))


def _nibbles(packed: U8, run: int) -> U8:
    """[rows, blocks, bytes] to [rows, groups, 32]; of each `run` bytes first the low nibbles, then the high ones."""
    return _codes(_shifted(packed, run, (0, 4)) & _NIBBLE)


def _shifted(packed: U8, run: int, shifts: tuple[int, ...] | range) -> U8:
    """[rows, blocks, bytes] to [rows, blocks, runs, len(shifts), run]: each run once for each shift to the right."""
    rows, blocks, n_bytes = packed.shape
    runs = np.ascontiguousarray(packed).reshape(rows, blocks, n_bytes // run, 1, run)
    return runs >> np.array(shifts, np.uint8)[:, None]


def _codes(values: U8) -> U8:
    """[rows, …] to [rows, groups, 32]"""
    return _grouped(values, GROUP)


def _grouped(values: NDArray[Scalar], size: int) -> NDArray[Scalar]:
    """[rows, …] to [rows, groups, size], of no rows too."""
    return np.ascontiguousarray(values).reshape(len(values), math.prod(values.shape[1:]) // size, size)


def _each(scales: NDArray[Scalar]) -> NDArray[Scalar]:
    """[rows, groups] to [rows, groups, 1]"""
    return np.ascontiguousarray(scales)[..., None]


def _factors(*of_blocks: NDArray[np.float16]) -> NDArray[np.float16]:
    """Each [rows, blocks] to [rows, groups, len(of_blocks)]: for each group those of its super-block."""
    return np.stack(of_blocks, axis=-1).astype(np.float16).repeat(GROUPS, axis=1)


_DECODERS: Mapping[GgmlType, tuple[np.dtype[np.void], Callable[[_Struct], Matrix]]] = {
    GgmlType.Q4_0: (np.dtype([("d", "<f2"), ("qs", "u1", 16)]), _q4_0),
    GgmlType.Q4_1: (np.dtype([("d", "<f2"), ("m", "<f2"), ("qs", "u1", 16)]), _q4_1),
    GgmlType.Q5_0: (np.dtype([("d", "<f2"), ("qh", "u1", 4), ("qs", "u1", 16)]), _q5_0),
    GgmlType.Q5_1: (np.dtype([("d", "<f2"), ("m", "<f2"), ("qh", "u1", 4), ("qs", "u1", 16)]), _q5_1),
    GgmlType.Q8_0: (np.dtype([("d", "<f2"), ("qs", "i1", 32)]), _q8_0),
    GgmlType.Q2_K: (np.dtype([("scales", "u1", 16), ("qs", "u1", 64), ("d", "<f2"), ("dmin", "<f2")]), _q2_k),
    GgmlType.Q3_K: (np.dtype([("hmask", "u1", 32), ("qs", "u1", 64), ("scales", "u1", 12), ("d", "<f2")]), _q3_k),
    GgmlType.Q4_K: (np.dtype([("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qs", "u1", 128)]), _q4_k),
    GgmlType.Q5_K: (
        np.dtype([("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qh", "u1", 32), ("qs", "u1", 128)]),
        _q5_k,
    ),
    GgmlType.Q6_K: (np.dtype([("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), ("d", "<f2")]), _q6_k),
    GgmlType.IQ4_NL: (np.dtype([("d", "<f2"), ("qs", "u1", 16)]), _iq4_nl),
    GgmlType.IQ4_XS: (
        np.dtype([("d", "<f2"), ("scales_h", "<u2"), ("scales_l", "u1", 4), ("qs", "u1", 128)]),
        _iq4_xs,
    ),
    GgmlType.MXFP4: (np.dtype([("e", "u1"), ("qs", "u1", 16)]), _mxfp4),
}

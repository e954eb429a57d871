"""GGML blocks to numbers: exactly to fp32, and to the format of a pack that loses least.

Every quantized type is, in groups of 16 or 32 weights, `w = scale * q + minimum`. Block layouts follow
ggml's ggml-common.h; `scales` of K-quants are small integers times one fp16 per block of 256.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tpid.model.gguf.types import GgmlType
from tpid.model.weights import F32, GROUP, W4S_ZERO, Format, HalfMatrix, Matrix, W4Matrix, W4SMatrix, W8Matrix, quantize

U8 = NDArray[np.uint8]
_Struct = NDArray[np.void]

# F32 is absent: whether f16 can hold it depends on the values.
NATURAL_FORMAT: Mapping[GgmlType, Format] = {
    GgmlType.F16: Format.F16,
    GgmlType.BF16: Format.BF16,
    GgmlType.Q4_0: Format.W4S,
    GgmlType.Q4_1: Format.W4,
    GgmlType.Q4_K: Format.W4,
    GgmlType.Q5_0: Format.W8,
    GgmlType.Q5_1: Format.W8,
    GgmlType.Q8_0: Format.W8,
    GgmlType.Q2_K: Format.W8,
    GgmlType.Q3_K: Format.W8,
    GgmlType.Q5_K: Format.W8,
    GgmlType.Q6_K: Format.W8,
}


@dataclass(frozen=True, slots=True)
class _Groups:
    """n blocks of g groups: `w = scale * q + minimum`."""

    quants: NDArray[np.int8]  # [n, g, 16 or 32]
    scales: F32  # [n, g]
    minimums: F32 | None  # [n, g]; None: all zero

    def dequantize(self) -> F32:
        values = self.quants.astype(np.float32)
        values *= self.scales[..., None]
        if self.minimums is not None:
            values += self.minimums[..., None]
        return values


def dequantize_blocks(type: GgmlType, raw: U8) -> F32:
    """Exact fp32 values [n * block_weights] of `raw` [n * block_bytes] uint8; damaged scales give NaN or infinity."""
    with np.errstate(all="ignore"):
        if type is GgmlType.F32:
            return raw.view("<f4").astype(np.float32)
        if type is GgmlType.F16:
            return raw.view("<f2").astype(np.float32)
        if type is GgmlType.BF16:
            return (raw.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
        return _decode(type, raw).dequantize().reshape(-1)


def blocks_to_matrix(type: GgmlType, raw: U8, format: Format) -> Matrix:
    """Rows of blocks, [rows, row_bytes] uint8, in `format`: the type's NATURAL_FORMAT, for F32 either half.

    Exact for Q4_0, Q4_1, Q5_0, Q8_0, F16 and BF16; for Q4_K to the fp16 rounding of its scales;
    for the others within the rounding of `quantize`. Damaged scales stay: see tpid.model.finite.
    """
    if type in (GgmlType.F16, GgmlType.BF16):
        return HalfMatrix(raw.view("<u2").astype(np.uint16, copy=False), format)
    with np.errstate(all="ignore"):
        if type is GgmlType.F32:
            return quantize(raw.view("<f4").astype(np.float32, copy=False), format)
        groups = _decode(type, raw.reshape(-1))
        shape = len(raw), raw.shape[1] // type.block_bytes * type.block_weights // GROUP
        if format is Format.W8:
            return _to_w8(groups, shape)
        return _to_w4(groups, shape) if format is Format.W4 else _to_w4s(groups, shape)


def _to_w4(groups: _Groups, shape: tuple[int, int]) -> W4Matrix:
    """`shape` is rows and groups of 32 in a row."""
    assert groups.minimums is not None  # every type whose natural format this is has them
    return W4Matrix(
        groups.quants.view(np.uint8).reshape(*shape, GROUP),
        groups.scales.astype(np.float16).reshape(shape),
        groups.minimums.astype(np.float16).reshape(shape),
    )


def _to_w4s(groups: _Groups, shape: tuple[int, int]) -> W4SMatrix:
    return W4SMatrix(
        (groups.quants + np.int8(W4S_ZERO)).view(np.uint8).reshape(*shape, GROUP),
        groups.scales.astype(np.float16).reshape(shape),
    )


def _to_w8(groups: _Groups, shape: tuple[int, int]) -> W8Matrix:
    """Groups of 32 that have one scale and no minimum keep their quants; the others are rounded anew."""
    kept = groups.quants.reshape(*shape, GROUP)
    per_group = GROUP // groups.quants.shape[-1]
    scales = groups.scales.reshape(*shape, per_group)
    whole = (scales == scales[..., :1]).all(axis=-1)
    if groups.minimums is not None:
        whole &= (groups.minimums.reshape(*shape, per_group) == 0).all(axis=-1)
    if whole.all():
        return W8Matrix(kept, scales[..., 0].astype(np.float16))
    rounded = quantize(groups.dequantize().reshape(shape[0], shape[1] * GROUP), Format.W8)
    assert isinstance(rounded, W8Matrix)
    return W8Matrix(
        np.where(whole[..., None], kept, rounded.quants),
        np.where(whole, scales[..., 0].astype(np.float16), rounded.scales),
    )


def _decode(type: GgmlType, raw: U8) -> _Groups:
    layout, decode = _DECODERS[type]
    return decode(raw.view(layout))


def _q4_0(blocks: _Struct) -> _Groups:
    return _Groups(_nibbles(blocks["qs"], 16).view(np.int8) - np.int8(W4S_ZERO), _wide(blocks["d"]), None)


def _q4_1(blocks: _Struct) -> _Groups:
    return _Groups(_nibbles(blocks["qs"], 16).view(np.int8), _wide(blocks["d"]), _wide(blocks["m"]))


def _q5_0(blocks: _Struct) -> _Groups:
    return _Groups(_five_bits(blocks).view(np.int8) - 16, _wide(blocks["d"]), None)


def _q5_1(blocks: _Struct) -> _Groups:
    return _Groups(_five_bits(blocks).view(np.int8), _wide(blocks["d"]), _wide(blocks["m"]))


def _q8_0(blocks: _Struct) -> _Groups:
    return _Groups(np.ascontiguousarray(blocks["qs"])[:, None], _wide(blocks["d"]), None)


def _q2_k(blocks: _Struct) -> _Groups:
    quants = _shifted(blocks["qs"].reshape(-1, 2, 1, 32), (0, 2, 4, 6)) & 3
    return _Groups(
        quants.reshape(-1, 16, 16).view(np.int8),
        _wide(blocks["d"]) * (blocks["scales"] & 15).astype(np.float32),
        -(_wide(blocks["dmin"]) * (blocks["scales"] >> 4).astype(np.float32)),
    )


def _q3_k(blocks: _Struct) -> _Groups:
    low = _shifted(blocks["qs"].reshape(-1, 2, 1, 32), (0, 2, 4, 6)) & 3
    high = _shifted(blocks["hmask"].reshape(-1, 1, 1, 32), range(8)) & 1
    quants = (low.reshape(-1, 8, 32) | (high.reshape(-1, 8, 32) << 2)).view(np.int8) - 4
    # 16 scales of 6 bits: low nibbles in 8 bytes, then the upper pairs of bits in 4.
    packed = blocks["scales"]
    low_bits = _shifted(packed[:, :8].reshape(-1, 1, 8), (0, 4)).reshape(-1, 16) & 15
    high_bits = _shifted(packed[:, 8:].reshape(-1, 1, 4), (0, 2, 4, 6)).reshape(-1, 16) & 3
    scales = (low_bits | (high_bits << 4)).view(np.int8) - 32
    return _Groups(quants.reshape(-1, 16, 16), _wide(blocks["d"]) * scales.astype(np.float32), None)


def _q4_k(blocks: _Struct) -> _Groups:
    scales, minimums = _k_scales(blocks)
    return _Groups(_nibbles(blocks["qs"], 32).view(np.int8), scales, minimums)


def _q5_k(blocks: _Struct) -> _Groups:
    scales, minimums = _k_scales(blocks)
    high = _shifted(blocks["qh"].reshape(-1, 1, 32), range(8)) & 1
    quants = _nibbles(blocks["qs"], 32) | (high << 4)
    return _Groups(quants.view(np.int8), scales, minimums)


def _q6_k(blocks: _Struct) -> _Groups:
    low = _shifted(blocks["ql"].reshape(-1, 2, 1, 64), (0, 4)) & 15
    high = _shifted(blocks["qh"].reshape(-1, 2, 1, 32), (0, 2, 4, 6)) & 3
    quants = low.reshape(-1, 16, 16) | (high.reshape(-1, 16, 16) << 4)
    scales = _wide(blocks["d"]) * blocks["scales"].astype(np.float32)
    return _Groups(quants.view(np.int8) - 32, scales, None)


def _k_scales(blocks: _Struct) -> tuple[F32, F32]:
    """Scales and minimums [n, 8] of Q4_K and Q5_K: 6 bits each in 12 bytes.

    Bytes 0…3 and 4…7 hold scales 0…3 and minimums 0…3 in their low 6 bits, and in the upper 2 those of
    scales 4…7 and minimums 4…7, whose lower 4 bits are the nibbles of bytes 8…11.
    """
    first, second, third = blocks["scales"].reshape(-1, 3, 4).transpose(1, 0, 2)
    scales = [first & 63, (third & 15) | (first >> 6 << 4)]
    minimums = [second & 63, (third >> 4) | (second >> 6 << 4)]
    return (
        _wide(blocks["d"]) * np.concatenate(scales, axis=1).astype(np.float32),
        -(_wide(blocks["dmin"]) * np.concatenate(minimums, axis=1).astype(np.float32)),
    )


def _five_bits(blocks: _Struct) -> U8:
    """[n, 1, 32]: nibbles, and the fifth bits in a little-endian word."""
    high = np.unpackbits(blocks["qh"], axis=1, bitorder="little")[:, None]
    return _nibbles(blocks["qs"], 16) | (high << np.uint8(4))


def _nibbles(packed: U8, run: int) -> U8:
    """[n, bytes] to [n, groups of 32]; of each `run` bytes first the low nibbles, then the high ones."""
    n, n_bytes = packed.shape
    low_and_high = _shifted(packed.reshape(n, n_bytes // run, 1, run), (0, 4)) & np.uint8(15)
    return low_and_high.reshape(n, 2 * n_bytes // GROUP, GROUP)


def _shifted(packed: U8, shifts: tuple[int, ...] | range) -> U8:
    """[…, 1, k] to […, len(shifts), k]: the same bytes once for each shift to the right."""
    return packed >> np.array(shifts, np.uint8)[:, None]


def _wide(scales: NDArray[np.float16]) -> F32:
    """[n] fp16 to [n, 1] fp32."""
    return scales.astype(np.float32)[:, None]


_DECODERS: Mapping[GgmlType, tuple[np.dtype[np.void], Callable[[_Struct], _Groups]]] = {
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
}

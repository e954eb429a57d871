"""The formats of tensors on the wire, and the way between them and fp32.

All numbers are little endian. A tensor is [n_tokens, hidden], row by row.

`fp32`  4 bytes a value, IEEE 754 single: nothing is lost.
`bf16`  2 bytes a value: the upper half of the single, rounded to nearest even; NaN stays NaN, infinity infinity.
`int8`  36 bytes for each 32 values: first the fp32 scales of all blocks of 32 values along the hidden axis, then
        all values as int8 q; value = q * scale, scale = max|x| / 127 of the block. A block whose scale would be
        subnormal is all zeros. A block with a value that is not finite decodes to 32 NaN: the fault stays visible.
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

F32: TypeAlias = NDArray[np.float32]
Buffer: TypeAlias = memoryview | bytes | bytearray

BLOCK = 32  # values that share a scale in int8
_CHUNK = 32768  # values converted at a time: temporary memory stays in the L2 cache, whatever the tensor's size
_SMALLEST_SCALE = np.finfo(np.float32).tiny

_HIGH_HALF = np.uint32(16)
_LOWEST_KEPT_BIT = np.uint32(1)
_ALMOST_HALF = np.uint32(0x7FFF)
_QUIET_NAN = np.uint32(0x40)


class WireDtype(StrEnum):
    FP32 = "fp32"
    BF16 = "bf16"
    INT8 = "int8"

    def accepts(self, hidden_size: int) -> bool:
        """Whether rows of `hidden_size` values can be sent: int8 needs a multiple of 32."""
        return self is not WireDtype.INT8 or hidden_size % BLOCK == 0


def wire_bytes(dtype: WireDtype, n_tokens: int, hidden_size: int) -> int:
    """The size of a payload. Raises ValueError where `dtype` cannot hold rows of `hidden_size`."""
    if not dtype.accepts(hidden_size):
        raise ValueError(f"int8 needs rows of a multiple of {BLOCK} values, not {hidden_size}")
    n_values = n_tokens * hidden_size
    if dtype is WireDtype.FP32:
        return 4 * n_values
    if dtype is WireDtype.BF16:
        return 2 * n_values
    return n_values + 4 * (n_values // BLOCK)


def encode_tensor(x: F32, dtype: WireDtype, out: Buffer) -> None:
    """Write fp32 `x` [n_tokens, hidden] to `out`, of exactly `wire_bytes` bytes."""
    values = x.reshape(-1)
    if dtype is WireDtype.FP32:
        singles = np.frombuffer(out, "<f4")
        _check_size(values, singles)
        np.copyto(singles, values)
    elif dtype is WireDtype.BF16:
        target = np.frombuffer(out, "<u2")
        _check_size(values, target)
        for part in _chunks(values.size):
            _encode_bf16(values[part], target[part])
    else:
        scales, quants = _int8_views(out)
        _check_size(values, quants)
        for part in _chunks(values.size):
            _encode_int8(values[part], scales[_blocks(part)], quants[part])


def decode_tensor(data: Buffer, dtype: WireDtype, out: F32) -> None:
    """Read `data`, of exactly `wire_bytes` bytes, into C-contiguous fp32 `out` [n_tokens, hidden]."""
    values = out.reshape(-1)
    if dtype is WireDtype.FP32:
        singles = np.frombuffer(data, "<f4")
        _check_size(values, singles)
        np.copyto(values, singles)
    elif dtype is WireDtype.BF16:
        halves = np.frombuffer(data, "<u2")
        _check_size(values, halves)
        np.left_shift(halves, _HIGH_HALF, out=values.view(np.uint32))
    else:
        scales, quants = _int8_views(data)
        _check_size(values, quants)
        with np.errstate(invalid="ignore", over="ignore"):  # the scales are a peer's bytes
            np.multiply(quants.reshape(-1, BLOCK), scales[:, None], out=values.reshape(-1, BLOCK))


def add_decoded(data: Buffer, dtype: WireDtype, accumulator: F32) -> None:
    """`decode_tensor`, added to C-contiguous fp32 `accumulator` [n_tokens, hidden] in one fp32 addition a value.

    Where infinities of both signs meet, the sum is NaN, and numpy may warn of it once.
    """
    values = accumulator.reshape(-1)
    if dtype is WireDtype.FP32:
        singles = np.frombuffer(data, "<f4")
        _check_size(values, singles)
        np.add(values, singles, out=values)
    elif dtype is WireDtype.BF16:
        halves = np.frombuffer(data, "<u2")
        _check_size(values, halves)
        for part in _chunks(values.size):
            bits = np.left_shift(halves[part], _HIGH_HALF, dtype=np.uint32)
            np.add(values[part], bits.view(np.float32), out=values[part])
    else:
        scales, quants = _int8_views(data)
        _check_size(values, quants)
        for part in _chunks(values.size):
            with np.errstate(invalid="ignore", over="ignore"):  # the scales are a peer's bytes
                product = quants[part].reshape(-1, BLOCK) * scales[_blocks(part), None]
            np.add(values[part], product.reshape(-1), out=values[part])


def _encode_bf16(values: F32, out: NDArray[np.uint16]) -> None:
    bits = values.view(np.uint32)
    rounded = np.right_shift(bits, _HIGH_HALF)
    rounded &= _LOWEST_KEPT_BIT
    rounded += bits
    rounded += _ALMOST_HALF
    rounded >>= _HIGH_HALF
    if np.isnan(np.maximum.reduce(values)):  # rounding could carry a NaN over into zero
        np.copyto(rounded, (bits >> _HIGH_HALF) | _QUIET_NAN, where=np.isnan(values))
    out[:] = rounded


def _encode_int8(values: F32, scales: F32, quants: NDArray[np.int8]) -> None:
    blocks = values.reshape(-1, BLOCK)
    # Two reductions instead of abs: no copy of the block.
    largest = np.maximum(np.maximum.reduce(blocks, axis=1), -np.minimum.reduce(blocks, axis=1))
    scale = largest / np.float32(127)
    scale[scale < _SMALLEST_SCALE] = 0
    finite = np.isfinite(scale)
    scale[~finite] = np.nan
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=finite & (scale != 0))
    with np.errstate(invalid="ignore"):
        product = blocks * inverse[:, None]
    if not finite.all():
        product[~finite] = 0
    np.rint(product, out=product)
    scales[:] = scale
    quants[:] = product.reshape(-1)


def _int8_views(data: Buffer) -> tuple[F32, NDArray[np.int8]]:
    n_blocks, rest = divmod(len(data), BLOCK + 4)
    if rest:
        raise ValueError(f"{len(data)} bytes are no whole number of int8 blocks")
    return np.frombuffer(data, "<f4", count=n_blocks), np.frombuffer(data, np.int8, offset=4 * n_blocks)


def _chunks(n_values: int) -> Iterator[slice]:
    return (slice(start, min(start + _CHUNK, n_values)) for start in range(0, n_values, _CHUNK))


def _blocks(part: slice) -> slice:
    return slice(part.start // BLOCK, part.stop // BLOCK)


def _check_size(values: NDArray[Any], payload: NDArray[Any]) -> None:
    # Slices and broadcasting would take a wrong size in silence.
    if values.size != payload.size:
        raise ValueError(f"a tensor of {values.size} values does not fit a payload of {payload.size}")

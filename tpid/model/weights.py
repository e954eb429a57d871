"""A matrix of weights in each of the formats that a pack can hold, and the way between them.

`w4`   groups of 32 along the input: 4-bit q, fp16 scale and minimum; w = scale * q + minimum
`w4s`  the same without the minimum, symmetric: w = scale * (q - 8)
`w8`   groups of 32 along the input: int8 q, fp16 scale; w = scale * q
`f16`  IEEE half;  `bf16`  the upper half of IEEE single
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

GROUP = 32  # weights that share a scale
W4S_ZERO = 8  # the q that stands for 0

F32 = NDArray[np.float32]


class Format(StrEnum):
    W4 = "w4"
    W4S = "w4s"
    W8 = "w8"
    F16 = "f16"
    BF16 = "bf16"


GROUPED = frozenset({Format.W4, Format.W4S, Format.W8})


@dataclass(frozen=True, slots=True)
class W4Matrix:
    quants: NDArray[np.uint8]  # [rows, groups, 32], 0…15
    scales: NDArray[np.float16]  # [rows, groups]
    minimums: NDArray[np.float16]  # [rows, groups]

    format = Format.W4

    @property
    def shape(self) -> tuple[int, int]:
        rows, groups, _ = self.quants.shape
        return rows, groups * GROUP

    def rows(self, index: slice | NDArray[np.intp]) -> W4Matrix:
        return W4Matrix(self.quants[index], self.scales[index], self.minimums[index])

    def columns(self, start: int, stop: int) -> W4Matrix:
        """Columns start…stop, both multiples of 32."""
        groups = slice(start // GROUP, stop // GROUP)
        return W4Matrix(self.quants[:, groups], self.scales[:, groups], self.minimums[:, groups])

    def dequantize(self) -> F32:
        values = self.quants.astype(np.float32)
        values *= self.scales.astype(np.float32)[..., None]
        values += self.minimums.astype(np.float32)[..., None]
        return values.reshape(self.shape)


@dataclass(frozen=True, slots=True)
class W4SMatrix:
    quants: NDArray[np.uint8]  # [rows, groups, 32], 0…15
    scales: NDArray[np.float16]  # [rows, groups]

    format = Format.W4S

    @property
    def shape(self) -> tuple[int, int]:
        rows, groups, _ = self.quants.shape
        return rows, groups * GROUP

    def rows(self, index: slice | NDArray[np.intp]) -> W4SMatrix:
        return W4SMatrix(self.quants[index], self.scales[index])

    def columns(self, start: int, stop: int) -> W4SMatrix:
        """Columns start…stop, both multiples of 32."""
        groups = slice(start // GROUP, stop // GROUP)
        return W4SMatrix(self.quants[:, groups], self.scales[:, groups])

    def dequantize(self) -> F32:
        values = self.quants.astype(np.float32)
        values -= W4S_ZERO
        values *= self.scales.astype(np.float32)[..., None]
        return values.reshape(self.shape)


@dataclass(frozen=True, slots=True)
class W8Matrix:
    quants: NDArray[np.int8]  # [rows, groups, 32]
    scales: NDArray[np.float16]  # [rows, groups]

    format = Format.W8

    @property
    def shape(self) -> tuple[int, int]:
        rows, groups, _ = self.quants.shape
        return rows, groups * GROUP

    def rows(self, index: slice | NDArray[np.intp]) -> W8Matrix:
        return W8Matrix(self.quants[index], self.scales[index])

    def columns(self, start: int, stop: int) -> W8Matrix:
        """Columns start…stop, both multiples of 32."""
        groups = slice(start // GROUP, stop // GROUP)
        return W8Matrix(self.quants[:, groups], self.scales[:, groups])

    def dequantize(self) -> F32:
        values = self.quants.astype(np.float32)
        values *= self.scales.astype(np.float32)[..., None]
        return values.reshape(self.shape)


@dataclass(frozen=True, slots=True)
class HalfMatrix:
    """`f16` or `bf16`: 16 bits a weight, no groups."""

    bits: NDArray[np.uint16]  # [rows, columns]
    format: Format

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.bits.shape
        return rows, columns

    def rows(self, index: slice | NDArray[np.intp]) -> HalfMatrix:
        return HalfMatrix(self.bits[index], self.format)

    def columns(self, start: int, stop: int) -> HalfMatrix:
        return HalfMatrix(self.bits[:, start:stop], self.format)

    def dequantize(self) -> F32:
        if self.format is Format.F16:
            return self.bits.view(np.float16).astype(np.float32)
        return (self.bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


Matrix: TypeAlias = W4Matrix | W4SMatrix | W8Matrix | HalfMatrix


def convert(matrix: Matrix, target: Format) -> Matrix:
    """`matrix` in the `target` format; the very same object where it already is."""
    return matrix if matrix.format is target else quantize(matrix.dequantize(), target)


def quantize(values: F32, target: Format) -> Matrix:
    """Round fp32 `values` [rows, columns] to `target`; grouped formats pad the columns with zeros to groups of 32."""
    if target is Format.F16:
        return HalfMatrix(values.astype(np.float16).view(np.uint16), target)
    if target is Format.BF16:
        return HalfMatrix(_bf16_bits(values), target)
    rows, columns = values.shape
    groups = -(-columns // GROUP)
    padded = np.zeros((rows, groups * GROUP), np.float32)
    padded[:, :columns] = values
    grouped = padded.reshape(rows, groups, GROUP)
    if target is Format.W8:
        return _quantize_w8(grouped)
    return _quantize_w4(grouped) if target is Format.W4 else _quantize_w4s(grouped)


def _quantize_w4(grouped: F32) -> W4Matrix:
    low = grouped.min(axis=-1).astype(np.float16)
    scale = ((grouped.max(axis=-1) - low.astype(np.float32)) / 15).astype(np.float16)
    offset = grouped - low.astype(np.float32)[..., None]
    quants = _divide_or_zero(offset, scale.astype(np.float32)[..., None]).round().clip(0, 15)
    return W4Matrix(quants.astype(np.uint8), scale, low)


def _quantize_w4s(grouped: F32) -> W4SMatrix:
    """The weight furthest from 0 becomes q = 0: the scale, of its sign's opposite, has one more step on that side."""
    furthest = np.take_along_axis(grouped, np.abs(grouped).argmax(axis=-1)[..., None], axis=-1)
    scale = (furthest[..., 0] / -W4S_ZERO).astype(np.float16)
    steps = _divide_or_zero(grouped, scale.astype(np.float32)[..., None]).round() + W4S_ZERO
    return W4SMatrix(steps.clip(0, 15).astype(np.uint8), scale)


def _quantize_w8(grouped: F32) -> W8Matrix:
    scale = (np.abs(grouped).max(axis=-1) / 127).astype(np.float16)
    quants = _divide_or_zero(grouped, scale.astype(np.float32)[..., None]).round().clip(-127, 127)
    return W8Matrix(quants.astype(np.int8), scale)


def _divide_or_zero(numerator: F32, denominator: F32) -> F32:
    out: F32 = np.zeros_like(numerator)
    np.divide(numerator, denominator, out=out, where=denominator != 0)
    return out


def _bf16_bits(values: F32) -> NDArray[np.uint16]:
    """Round to nearest even, as IEEE 754 asks; NaN stays NaN."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet_nan = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(values), quiet_nan, rounded).astype(np.uint16)

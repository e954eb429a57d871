"""A matrix of weights in each of the formats that a pack can hold, and the way between them.

`w4`   groups of 32 along the input: 4-bit q, fp16 scale and minimum; w = scale * q + minimum
`w4s`  the same without the minimum, symmetric: w = scale * (q - 8)
`w8`   groups of 32 along the input: int8 q, fp16 scale; w = scale * q
`f16`  IEEE half;  `bf16`  the upper half of IEEE single

The others keep the blocks of GGUF's types of the same names, as `CODINGS` describes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
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
    Q2_K = "q2_k"
    Q3_K = "q3_k"
    Q4_K = "q4_k"
    Q5_K = "q5_k"
    Q6_K = "q6_k"
    Q5_0 = "q5_0"
    Q5_1 = "q5_1"
    IQ4_NL = "iq4_nl"
    IQ4_XS = "iq4_xs"
    MXFP4 = "mxfp4"


ROUNDED_TO = (Format.W4, Format.W4S, Format.W8, Format.F16, Format.BF16)  # what `quantize` can make
GROUPED = frozenset(Format) - {Format.F16, Format.BF16}


class Scales(Enum):
    """How the scales of 32 weights are written."""

    HALVES = "fp16"
    SIXES = "two numbers of 6 bits: scale and minimum, or two scales plus 32"
    NIBBLES = "two bytes: each a scale in its low half and a minimum in the other"
    BYTES = "int8"
    EXPONENTS = "uint8 e for 2^(e - 128)"


@dataclass(frozen=True, slots=True)
class Coding:
    """Weights as codes of a few bits: `w = scale * (code - zero) + minimum`, or `scale * codebook[code]`.

    With a super-block of 256 along the input, scale and minimum are a small whole number times its fp16 factor.
    """

    low_bits: int  # of a code, and the bits above them: they lie apart
    high_bits: int
    scales: Scales
    per_group: int = 1  # scales of 32 weights
    zero: int = 0
    minimum: bool = False
    super_block: bool = False
    codebook: tuple[int, ...] | None = None


_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)  # twice the numbers that 4 bits stand for

CODINGS: Mapping[Format, Coding] = {
    Format.Q2_K: Coding(2, 0, Scales.NIBBLES, per_group=2, minimum=True, super_block=True),
    Format.Q3_K: Coding(2, 1, Scales.SIXES, per_group=2, zero=4, super_block=True),
    Format.Q4_K: Coding(4, 0, Scales.SIXES, minimum=True, super_block=True),
    Format.Q5_K: Coding(4, 1, Scales.SIXES, minimum=True, super_block=True),
    Format.Q6_K: Coding(4, 2, Scales.BYTES, per_group=2, zero=32, super_block=True),
    Format.Q5_0: Coding(4, 1, Scales.HALVES, zero=16),
    Format.Q5_1: Coding(4, 1, Scales.HALVES, minimum=True),
    Format.IQ4_NL: Coding(4, 0, Scales.HALVES, codebook=_IQ4),
    Format.IQ4_XS: Coding(4, 0, Scales.BYTES, super_block=True, codebook=_IQ4),
    Format.MXFP4: Coding(4, 0, Scales.EXPONENTS, codebook=_E2M1),
}


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
class CodedMatrix:
    """A matrix in one of the formats of `CODINGS`."""

    format: Format
    codes: NDArray[np.uint8]  # [rows, groups, 32]
    scales: NDArray[np.float16] | NDArray[np.int8] | NDArray[np.uint8]  # [rows, groups, per_group]; int8: without + 32
    minimums: NDArray[np.float16] | NDArray[np.uint8] | None = None  # as scales; whole numbers are taken off
    factors: NDArray[np.float16] | None = None  # [rows, groups, 1 or 2]: of the super-block's scales, and minimums

    @property
    def shape(self) -> tuple[int, int]:
        rows, groups, _ = self.codes.shape
        return rows, groups * GROUP

    def rows(self, index: slice | NDArray[np.intp]) -> CodedMatrix:
        return CodedMatrix(
            self.format,
            self.codes[index],
            self.scales[index],
            None if self.minimums is None else self.minimums[index],
            None if self.factors is None else self.factors[index],
        )

    def columns(self, start: int, stop: int) -> CodedMatrix:
        """Columns start…stop, both multiples of 32."""
        groups = slice(start // GROUP, stop // GROUP)
        return CodedMatrix(
            self.format,
            self.codes[:, groups],
            self.scales[:, groups],
            None if self.minimums is None else self.minimums[:, groups],
            None if self.factors is None else self.factors[:, groups],
        )

    def dequantize(self) -> F32:
        coding = CODINGS[self.format]
        if coding.codebook is not None:
            values = np.array(coding.codebook, np.float32)[self.codes]
        else:
            values = self.codes.astype(np.float32)
            values -= coding.zero
        grouped = values.reshape(*self.scales.shape, GROUP // coding.per_group)
        grouped *= self._scales()[..., None]
        if self.minimums is not None:
            minimums = self.minimums.astype(np.float32)
            grouped += (minimums if self.factors is None else -(minimums * self._factors(1)))[..., None]
        return grouped.reshape(self.shape)

    def _scales(self) -> F32:
        if CODINGS[self.format].scales is Scales.EXPONENTS:
            exponents = self.scales.astype(np.int32) - 128
            return np.ldexp(np.float32(1), exponents)  # exact, below the smallest normal number too
        scales = self.scales.astype(np.float32)
        return scales if self.factors is None else self._factors(0) * scales

    def _factors(self, index: int) -> F32:
        """[rows, groups, 1]"""
        assert self.factors is not None
        return self.factors[..., index : index + 1].astype(np.float32)


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


Matrix: TypeAlias = W4Matrix | W4SMatrix | W8Matrix | CodedMatrix | HalfMatrix


def convert(matrix: Matrix, target: Format) -> Matrix:
    """`matrix` in the `target` format; the very same object where it already is."""
    return matrix if matrix.format is target else quantize(matrix.dequantize(), target)


def quantize(values: F32, target: Format) -> Matrix:
    """Round fp32 `values` [rows, columns] to `target`, one of ROUNDED_TO; grouped formats pad to 32 columns with zeros.

    Raises ValueError for a format that only files can bring.
    """
    if target not in ROUNDED_TO:
        raise ValueError(f"numbers are not rounded to {target}")
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

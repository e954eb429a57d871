"""Types of GGUF that a pack has no format for: read by the gguf package and rounded to the nearest format.

Their weights lie on few levels a group, which 4 bits with a fitted step meet, or nearly: the loss is small beside what
such a type has lost before. NVFP4's levels are too uneven for that.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tpid.model.gguf.types import GgmlType
from tpid.model.step_fit import fit_w4
from tpid.model.weights import F32, Format, Matrix, quantize

_BITS = {Format.W4: 5.0, Format.W8: 8.5}  # a weight takes in a pack

ROUNDED_FORMAT: Mapping[GgmlType, Format] = {
    GgmlType.IQ1_S: Format.W4,
    GgmlType.IQ1_M: Format.W4,
    GgmlType.IQ2_XXS: Format.W4,
    GgmlType.IQ2_XS: Format.W4,
    GgmlType.IQ2_S: Format.W4,
    GgmlType.IQ3_XXS: Format.W4,
    GgmlType.IQ3_S: Format.W4,
    GgmlType.TQ1_0: Format.W4,
    GgmlType.TQ2_0: Format.W4,
    GgmlType.NVFP4: Format.W8,
}


def dequantize_rounded(type: GgmlType, raw: NDArray[np.uint8]) -> F32:
    """Exact fp32 values [rows, columns] of rows of blocks [rows, row_bytes]; damaged scales give NaN or infinity."""
    import gguf  # noqa: PLC0415 (takes long to load, and few files need it)

    if not len(raw):  # which the package does not take
        return np.empty((0, raw.shape[1] // type.block_bytes * type.block_weights), np.float32)
    with np.errstate(all="ignore"):
        values: F32 = gguf.dequantize(np.ascontiguousarray(raw), gguf.GGMLQuantizationType(type))
    return values.reshape(len(raw), -1).astype(np.float32, copy=False)


def round_values(type: GgmlType, values: F32) -> Matrix:
    """`values` [rows, columns] in the type's ROUNDED_FORMAT; what that cannot hold becomes infinite."""
    with np.errstate(all="ignore"):
        return fit_w4(values) if ROUNDED_FORMAT[type] is Format.W4 else quantize(values, ROUNDED_FORMAT[type])


@dataclass(slots=True)
class _Loss:
    squares: float = 0.0  # of weights
    errors: float = 0.0  # squares of what rounding took from them


class Roundings:
    """What rounding has taken so far from the matrices of each type."""

    def __init__(self) -> None:
        self._losses: dict[GgmlType, _Loss] = {}

    def add(self, type: GgmlType, values: F32, rounded: Matrix) -> None:
        loss = self._losses.setdefault(type, _Loss())
        error = rounded.dequantize() - values
        loss.squares += float(np.vdot(values, values))
        loss.errors += float(np.vdot(error, error))

    def notes(self) -> list[str]:
        return [self._note(type, loss) for type, loss in sorted(self._losses.items())]

    def _note(self, type: GgmlType, loss: _Loss) -> str:
        format = ROUNDED_FORMAT[type]
        growth = _BITS[format] / (8 * type.block_bytes / type.block_weights)
        part = (loss.errors / loss.squares) ** 0.5 if loss.squares else 0.0
        lost = "without loss" if part < 1e-6 else f"rounded by {100 * part:.2g} % of their size (root mean square)"
        return (
            f"A pack has no format for {type.name}: its matrices became {format}, {lost}, {growth:.1f} times as large. "
            "Files of Q2_K to Q6_K, IQ4_XS or MXFP4 keep their own bits."
        )

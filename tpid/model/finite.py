"""Weights that are not finite numbers: a sign of damage, found before they reach a pack."""

import numpy as np
from numpy.typing import NDArray

from tpid.errors import ModelFileError
from tpid.model.weights import CODINGS, F32, CodedMatrix, Format, HalfMatrix, Matrix, Scales, W4Matrix

_TOO_LARGE = 253  # an exponent of MXFP4 with which the largest code leaves fp32; 255 is no number, by the standard
_EXPONENT = {Format.F16: np.uint16(0x7C00), Format.BF16: np.uint16(0x7F80)}  # all ones: infinite or NaN


def require_finite(matrix: Matrix, where: str, first_row: int) -> None:
    """Raises ModelFileError naming the row; `first_row` is that of the matrix's row 0 in its tensor."""
    if isinstance(matrix, HalfMatrix):
        mask = _EXPONENT[matrix.format]
        bad = (matrix.bits & mask) == mask
    elif isinstance(matrix, CodedMatrix):
        bad = _coded(matrix)
    else:
        bad = ~np.isfinite(matrix.scales)
        if isinstance(matrix, W4Matrix):
            bad |= ~np.isfinite(matrix.minimums)
    _refuse_first(bad, "scale or weight", where, first_row)


def _coded(matrix: CodedMatrix) -> NDArray[np.bool_]:
    """[rows, groups]"""
    if CODINGS[matrix.format].scales is Scales.EXPONENTS:
        too_large: NDArray[np.bool_] = (matrix.scales >= _TOO_LARGE)[..., 0]
        return too_large
    bad = np.zeros(matrix.codes.shape[:2], np.bool_)
    for halves in (matrix.scales, matrix.minimums, matrix.factors):
        if halves is not None and halves.dtype == np.float16:
            bad |= ~np.isfinite(halves).all(axis=-1)
    return bad


def require_finite_values(values: F32, where: str, first_row: int = 0) -> None:
    """The same for fp32 values [rows] or [rows, columns]."""
    _refuse_first(~np.isfinite(values), "value", where, first_row)


def _refuse_first(bad: NDArray[np.bool_], noun: str, where: str, first_row: int) -> None:
    if bad.any():
        row = first_row + int(bad.reshape(len(bad), -1).any(axis=1).argmax())
        raise ModelFileError(
            f"{where}, row {row}: a {noun} is not a finite number.",
            hint="Compare the file's checksum with that where it was published: it is damaged, or the model is.",
        )

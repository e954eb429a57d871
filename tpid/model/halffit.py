"""Which half format holds an fp32 matrix, and what is lost by it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tpid.errors import UnsupportedModelError
from tpid.model.finite import require_finite_values
from tpid.model.inventory import Shape
from tpid.model.weights import F32, Format, quantize

_SCAN_WEIGHTS = 4 << 20  # read at once: 16 MB
_SAMPLE_WEIGHTS, _SAMPLES = 1 << 20, 16
_MAX = {Format.F16: 65504.0, Format.BF16: 3.3895313892515355e38}
_HALVES = (Format.F16, Format.BF16)  # the first where both are as good


@dataclass(frozen=True, slots=True)
class HalfFit:
    format: Format
    exact: bool


class HalfFits:
    """Of each fp32 matrix of a model the fit, found when it is first asked for."""

    def __init__(self) -> None:
        self._found: dict[str, HalfFit] = {}

    def format_of(self, name: str, read_rows: Callable[[int, int], F32], shape: Shape, where: str) -> Format:
        """Raises as `scan_half_fit`."""
        if name not in self._found:
            self._found[name] = scan_half_fit(read_rows, shape, where)
        return self._found[name].format

    def notes(self) -> list[str]:
        rounded = [fit.format for fit in self._found.values() if not fit.exact]
        if not rounded:
            return []
        formats = " and ".join(f"{rounded.count(format)} to {format}" for format in _HALVES if format in rounded)
        return [f"Its fp32 weights do not fit 16 bits exactly: matrices were rounded, {formats}."]


def scan_half_fit(read_rows: Callable[[int, int], F32], shape: Shape, where: str) -> HalfFit:
    """f16 where it holds all weights exactly, else bf16 where that does, else what loses less.

    `read_rows(start, stop)` gives fp32 rows. Raises ModelFileError for weights that are not finite, and
    UnsupportedModelError for those that become so in 16 bits.
    """
    rows, columns = shape
    step = max(_SCAN_WEIGHTS // columns, 1)
    exact = set(_HALVES)
    largest = 0.0
    for start in range(0, rows, step):
        values = read_rows(start, min(start + step, rows))
        require_finite_values(values, where, start)
        exact -= {format for format in exact if not _is_exact(values, format)}
        largest = max(largest, float(np.abs(values).max()))
    if exact:
        return HalfFit(min(exact, key=_HALVES.index), exact=True)
    if largest <= _MAX[Format.F16]:
        return HalfFit(_with_less_loss(read_rows, shape), exact=False)
    if largest > _MAX[Format.BF16]:
        raise UnsupportedModelError(f"{where} has a weight of {largest:g}, beyond what 16 bits can hold.")
    return HalfFit(Format.BF16, exact=False)


def _is_exact(values: F32, format: Format) -> bool:
    # The bits that go must be zero, which is quickly seen; f16 has a smaller range besides.
    lost_bits = np.uint32(0x1FFF if format is Format.F16 else 0xFFFF)
    if (np.ascontiguousarray(values).view(np.uint32) & lost_bits).any():
        return False
    return format is Format.BF16 or _squared_error(values, format) == 0.0


def _with_less_loss(read_rows: Callable[[int, int], F32], shape: Shape) -> Format:
    """By the squared errors of some rows, evenly spread: of all of them it would take as long as the import."""
    rows, columns = shape
    n_rows = max(_SAMPLE_WEIGHTS // _SAMPLES // columns, 1)
    losses = dict.fromkeys(_HALVES, 0.0)
    for start in range(0, rows, max(n_rows, -(-rows // _SAMPLES))):
        values = read_rows(start, min(start + n_rows, rows))
        for format in _HALVES:
            losses[format] += _squared_error(values, format)
    return min(_HALVES, key=lambda format: losses[format])


def _squared_error(values: F32, format: Format) -> float:
    """Infinite where a weight becomes so."""
    with np.errstate(over="ignore"):
        error = (quantize(values, format).dequantize() - values).reshape(-1).astype(np.float64)
    return float(np.dot(error, error))

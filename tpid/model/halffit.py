"""Which half format holds an fp32 matrix."""

from collections.abc import Callable

import numpy as np

from tpid.model.finite import require_finite_values
from tpid.model.inventory import Shape
from tpid.model.weights import F32, Format

_SCAN_WEIGHTS = 4 << 20  # read at once: 16 MB
_F16_MAX = float(np.finfo(np.float16).max)


def scan_half_format(read_rows: Callable[[int, int], F32], shape: Shape, where: str) -> Format:
    """f16, which keeps three more bits, where all weights fit it, else bf16; `read_rows(start, stop)` gives fp32 rows.

    Raises ModelFileError for weights that are not finite.
    """
    rows, columns = shape
    step = max(_SCAN_WEIGHTS // columns, 1)
    fits = True
    for start in range(0, rows, step):
        values = read_rows(start, min(start + step, rows))
        require_finite_values(values, where, start)
        fits = fits and bool(np.abs(values).max() <= _F16_MAX)
    return Format.F16 if fits else Format.BF16

"""How fast this device reads weights in real decode passes, beside what was measured when it started. Pure.

What a pass takes beside reading weights is taken off, by a figure a step; where that would be most of the time, the
pass says nothing about reading: a small share would look slow, get a smaller one, and look slower still.
"""

import math
from typing import Final

STEP_S: Final = 5e-5  # norms, activations, the call itself: of one half of a layer
_WEIGHT: Final = 1 / 8  # of a pass in the estimate: a hiccup changes little, and after 16 passes the old is an eighth
CHANGE: Final = 1.15  # less is noise, and not told to others
_MOST_CHANGE: Final = 8.0  # from one pass


class SpeedWatch:
    """Of one device. Bytes are those that the cost model counts for a share."""

    def __init__(self) -> None:
        self._log: float | None = None

    @property
    def estimate_bytes_s(self) -> float | None:
        """None before the first pass that says something."""
        return None if self._log is None else math.exp(self._log)

    def measured(self, bytes_s: float) -> None:
        """Anew, as at the start; what passes have said is forgotten."""
        self._log = math.log(bytes_s) if bytes_s > 0 else None

    def passed(self, read_bytes: int, n_steps: int, compute_s: float, before_bytes_s: float) -> None:
        """A decode pass took `compute_s` of the cores; `before_bytes_s` is what counted until the first."""
        reading_s = compute_s - n_steps * STEP_S
        if read_bytes <= 0 or reading_s <= 0 or reading_s < compute_s / 2:
            return
        if self._log is None:
            self._log = math.log(max(before_bytes_s, 1.0))
        step = math.log(read_bytes / reading_s) - self._log
        most = math.log(_MOST_CHANGE)
        self._log += _WEIGHT * max(-most, min(step, most))


def differs(one_bytes_s: float, other_bytes_s: float, by: float = CHANGE) -> bool:
    """Whether one is more than `by` times the other."""
    low, high = sorted((one_bytes_s, other_bytes_s))
    return high > by * low

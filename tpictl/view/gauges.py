"""Bars and small histories out of block characters."""

from collections.abc import Sequence
from typing import Final

_EIGHTHS: Final = "▁▂▃▄▅▆▇█"


def bar(fraction: float, columns: int) -> str:
    """Filled up to `fraction`; something that is there is seen."""
    fraction = min(max(fraction, 0.0), 1.0)
    filled = round(fraction * columns) or (1 if fraction > 0 else 0)
    return "█" * filled + "░" * (columns - filled)


def sparkline(values: Sequence[float]) -> str:
    """One character a value, the largest is full."""
    top = max(values, default=0.0)
    if top <= 0:
        return _EIGHTHS[0] * len(values)
    return "".join(_EIGHTHS[min(int(value / top * len(_EIGHTHS)), len(_EIGHTHS) - 1)] for value in values)

"""The clock of what devices agree on by time: silence and leases."""

import time
from typing import Final

# A monotonic clock stands still while Linux sleeps, and a laptop that wakes up must know that it was gone.
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def awake_or_asleep_s() -> float:
    """Seconds since some moment, never going back; those that the device slept count."""
    return time.clock_gettime(_CLOCK)

"""How fast units are sent: as fast as they go while this device computes nothing, slowly while it does. Pure."""

from typing import Final

BUSY_BYTES_S: Final = 2e6  # while a pass runs: a sixth of a link of 100 Mbit/s
SLICE_BYTES: Final = 16 * 1024  # written at once: about 1.3 ms of such a link, what a partial may have to wait


class Pacer:
    """Of one device: all its connections share what may be sent."""

    def __init__(self, now: float) -> None:
        self._free_s = now  # when what was sent so far is paid for

    def wait_s(self, n_bytes: int, now: float, *, busy: bool) -> float:
        """How long to wait before `n_bytes` more are sent, which then count as sent."""
        if not busy:
            self._free_s = now
            return 0.0
        begin_s = max(self._free_s, now)
        self._free_s = begin_s + n_bytes / BUSY_BYTES_S
        return begin_s - now

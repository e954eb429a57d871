"""Where the weights of a loaded share are, and what it costs to stream the rest."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WeightUse:
    """Of one rank. What was measured is None until it is: other devices tell it from their second decode step on."""

    resident_bytes: int
    window_bytes: int = 0
    streamed_bytes: int = 0  # read from disk in each pass
    disk_bytes_s: float | None = None  # at which they came in the passes so far
    stall_s: float | None = None  # that a decode step waited for the disk, of late

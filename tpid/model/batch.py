"""Which new tokens go through the layers together."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Segment:
    """`n_tokens` new tokens of the sequence in `slot`, at positions `start`, `start + 1`, …

    Positions before `start` must be in the KV cache already; what the cache held from `start` on is overwritten.
    """

    slot: int
    start: int
    n_tokens: int

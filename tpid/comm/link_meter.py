"""Measuring a link by probes: what a message there and back takes, what its size adds, and what one more adds.

A round is some tens of small messages, each sent when the one before is answered, so it takes that many round trips
and no timer. Both devices must be idle: a probe that waits for a core measures the core.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from statistics import median
from typing import Final, TypeAlias

from tpid.comm.messages import Probe
from tpid.device import LinkCost

N_SMALL: Final = 9
# Fits the window that TCP begins with, and begins anew with after a pause: more would measure the window.
PAD_BYTES: Final = 12 * 1024
N_LARGE: Final = 5
N_BURSTS: Final = 3
BURST: Final = 8
_MOST_BYTES_S: Final = 2e9  # a difference within the noise is as good as none

_Times: TypeAlias = list[float]  # from the first probe's sending to each answer, in their order
_Round: TypeAlias = Generator[Sequence[bytes], _Times, tuple[LinkCost, float]]  # the link's, and its jitter


class LinkMeter:
    """Of one connection. Send what `begin` and `answered` give, at once and in order."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.result: LinkCost | None = None  # of the last round that was complete
        self.jitter_s = 0.0  # of that round: by how much all small probes but the latest differ
        self._clock = clock
        self._round: _Round | None = None
        self._sent: list[float] = []
        self._answered_s: list[float] = []

    @property
    def busy(self) -> bool:
        return self._round is not None

    def begin(self) -> list[Probe]:
        """A new round; one under way is given up."""
        self.drop()
        self._round = _round()
        return self._send(next(self._round))

    def drop(self) -> None:
        """What was measured last was disturbed."""
        self.result = None
        self._round = None
        self._sent = []

    def answered(self, sent_s: float) -> list[Probe]:
        """A pong has come, perhaps that of a heartbeat; what to send next."""
        number = len(self._answered_s)
        if self._round is None or number >= len(self._sent) or sent_s != self._sent[number]:
            return []
        self._answered_s.append(self._clock() - self._sent[0])
        if len(self._answered_s) < len(self._sent):
            return []
        try:
            return self._send(self._round.send(self._answered_s))
        except StopIteration as end:
            self._round = None
            self.result, self.jitter_s = end.value
            return []

    def _send(self, pads: Sequence[bytes]) -> list[Probe]:
        start_s = self._clock()
        # Apart by less than the clock tells, so that each answer is known by its number.
        probes = [Probe(sent_s=start_s + 1e-6 * number, pad=pad) for number, pad in enumerate(pads)]
        self._sent = [probe.sent_s for probe in probes]
        self._answered_s = []
        return probes


def _round() -> _Round:
    small = []
    for _ in range(N_SMALL):
        small += yield [b""]
    large = []
    for _ in range(N_LARGE):
        large += yield [bytes(PAD_BYTES)]
    more = []
    for _ in range(N_BURSTS):
        times = yield [b""] * BURST
        more.append((times[-1] - times[0]) / (BURST - 1))
    # The least of each, because a delay by something else would be in the difference.
    longer_s = max(min(large) - min(small), PAD_BYTES / _MOST_BYTES_S)
    cost = LinkCost(rtt_s=median(small), bytes_s=PAD_BYTES / longer_s, message_s=max(min(more), 0.0))
    return cost, sorted(small)[-2] - min(small)

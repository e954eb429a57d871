"""How long the coordinator waits for its ranks, and for which one no longer. Pure: `now` is an argument.

A rank at work tells its progress twice a second (PROGRESS). A rank that answers heartbeats and says nothing of its work
is stuck after `SILENT_S`; one that goes on saying the same is after `STUCK_S`. So a slow device keeps its place, and a
broken one costs a request few seconds.
"""

from collections.abc import Collection, Hashable
from dataclasses import dataclass
from typing import Final

from tpid.device import DeviceId

LOOK_S: Final = 0.5  # between two looks
SILENT_S: Final = 3.0  # six words of a rank at work; longer than a connection may be silent, which names the cause
STUCK_S: Final = 90.0  # a prefill block of a large model on a slow disk and a small processor takes less


@dataclass(slots=True)
class _Wait:
    """Times since which a device owes something, was last heard, and last got on."""

    since_s: float
    word_s: float
    advance_s: float
    done: int = -1


@dataclass(frozen=True, slots=True)
class Overdue:
    """The wait for `device` is over."""

    device: DeviceId
    reason: str  # goes on from the device's name


class RankWatch:
    """Of one load, or of the passes of one plan."""

    def __init__(self, now: float) -> None:
        self._looked_s = now
        self._owed: Hashable = None
        self._waits: dict[DeviceId, _Wait] = {}

    def waits_for(self, devices: Collection[DeviceId], owed: Hashable, now: float) -> None:
        """Nothing is missing but what `devices` owe; their time begins anew where `owed` is another thing."""
        if owed != self._owed:
            self._waits.clear()
            self._owed = owed
        for device in self._waits.keys() - set(devices):
            del self._waits[device]
        for device in devices:
            if device not in self._waits:
                self._waits[device] = _Wait(now, now, now)

    def heard(self, device: DeviceId, done: int, now: float) -> None:
        """The device is at work, and has done so much."""
        wait = self._waits.get(device)
        if wait is None:
            return
        wait.word_s = now
        if done != wait.done:
            wait.done, wait.advance_s = done, now

    def look(self, now: float) -> Overdue | None:
        """The device that has been waited for too long, if there is one. To be called every `LOOK_S`.

        Where the looks were further apart this device itself stood still, and what the others said meanwhile may
        still be unread: the time does not count.
        """
        missed_s = now - self._looked_s - LOOK_S
        self._looked_s = now
        if missed_s > LOOK_S:
            for wait in self._waits.values():
                wait.word_s = min(wait.word_s + missed_s, now)
                wait.advance_s = min(wait.advance_s + missed_s, now)
        for device, wait in self._waits.items():
            if now - wait.word_s >= SILENT_S:
                seconds = now - wait.word_s
                return Overdue(device, f"answers, but has not worked on its part for {seconds:.1f} s")
            if now - wait.advance_s >= STUCK_S:
                return Overdue(device, f"has been at the same work for {now - wait.advance_s:.0f} s")
        return None

"""What has happened to the devices of this home of late, and since when each is here or gone."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tpid.cluster.changed import Changed
from tpid.device import DeviceId

MAX_EVENTS: Final = 64
MAX_AWAY: Final = 64


class EventKind(StrEnum):
    JOINED = "joined"  # a device is connected
    LOST = "lost"  # a device is connected no more
    FAILED = "failed"  # a rank is there and did not do its part
    RECOVERED = "recovered"  # an answer goes on with other devices


@dataclass(frozen=True, slots=True)
class DeviceEvent:
    number: int  # counted since the daemon began
    time_s: float  # Unix time
    kind: EventKind
    device: str  # its name; with RECOVERED the names of those that go on
    in_plan: bool  # it had a share of the model
    reason: str  # a sentence; empty where there is none


@dataclass(frozen=True, slots=True)
class Away:
    """A device that was connected once."""

    device: DeviceId
    name: str
    since_s: float  # Unix time
    reason: str


class Journal:
    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.began_s = clock()
        self._events: deque[DeviceEvent] = deque(maxlen=MAX_EVENTS)
        self._away: dict[DeviceId, Away] = {}
        self._here: dict[DeviceId, float] = {}
        self.n_events = 0
        self.changed = Changed()

    @property
    def events(self) -> Sequence[DeviceEvent]:
        """The oldest first."""
        return tuple(self._events)

    @property
    def away(self) -> Sequence[Away]:
        return tuple(self._away.values())

    @property
    def here_since_s(self) -> Mapping[DeviceId, float]:
        """Of devices that are connected, in Unix time."""
        return self._here

    def after(self, number: int) -> list[DeviceEvent]:
        """The events after the first `number`, as far as they are kept."""
        return [event for event in self._events if event.number > number]

    async def wait_after(self, number: int) -> list[DeviceEvent]:
        """The events after the first `number`; waits for one."""
        await self.changed.wait_for(lambda: self.n_events > number)
        return self.after(number)

    def joined(self, device: DeviceId, name: str) -> None:
        self._away.pop(device, None)
        self._here[device] = self._clock()
        self._add(EventKind.JOINED, name)

    def lost(self, device: DeviceId, name: str, reason: str, *, in_plan: bool) -> None:
        self._here.pop(device, None)
        self._away[device] = Away(device, name, self._clock(), reason)
        while len(self._away) > MAX_AWAY:
            del self._away[next(iter(self._away))]
        self._add(EventKind.LOST, name, reason, in_plan=in_plan)

    def failed(self, reason: str) -> None:
        self._add(EventKind.FAILED, "", reason, in_plan=True)

    def recovered(self, names: Sequence[str]) -> None:
        self._add(EventKind.RECOVERED, ", ".join(names))

    def _add(self, kind: EventKind, device: str, reason: str = "", *, in_plan: bool = False) -> None:
        self.n_events += 1
        self._events.append(DeviceEvent(self.n_events, self._clock(), kind, device, in_plan, reason))
        self.changed.notify()

"""Election machines joined by a network that exists only in memory: it delays, drops, reorders and splits by seed.

Frames of one connection keep their order, as TCP keeps it; those of different connections overtake each other.
"""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tpid.cluster.election import Election
from tpid.cluster.lease import (
    Busy,
    Disconnect,
    ElectionSettings,
    Event,
    LeaseLost,
    PeerJoined,
    PeerLost,
    Received,
    Send,
    Tick,
    Want,
)
from tpid.device import DeviceId, Role

SETTINGS = ElectionSettings(ttl_s=3.0)


@dataclass
class Network:
    """Time moves only in `run`; after each event every machine is validated and safety is checked."""

    seed: int = 0
    delay_s: tuple[float, float] = (0.001, 0.05)
    drop: float = 0.0
    now: float = 0.0
    machines: dict[DeviceId, Election] = field(default_factory=dict)
    roles: dict[DeviceId, Role] = field(default_factory=dict)
    lost: list[tuple[DeviceId, str]] = field(default_factory=list)  # every LeaseLost
    sent: list[tuple[DeviceId, DeviceId, Any]] = field(default_factory=list)
    cut: list[tuple[DeviceId, DeviceId]] = field(default_factory=list)  # every Disconnect

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._ends: dict[tuple[DeviceId, DeviceId], int | None] = {}  # what each end thinks of the connection
        self._links: dict[tuple[DeviceId, DeviceId], int | None] = {}  # what is really there; key is sorted
        self._last_delivery: dict[tuple[DeviceId, DeviceId, int], float] = {}
        self._held: dict[tuple[DeviceId, DeviceId, int], list[Any]] = {}
        self._epochs = itertools.count(1)

    # --- set-up and faults

    def add(self, name: str, role: Role = Role.USER) -> DeviceId:
        device = DeviceId(name)
        self.roles[device] = role
        self.machines[device] = Election(device, role, SETTINGS)
        self.feed(device, Tick())
        return device

    def connect(self, a: DeviceId, b: DeviceId) -> None:
        key = (min(a, b), max(a, b))
        if self._links.get(key) is not None or self._ends.get((a, b)) or self._ends.get((b, a)):
            return  # up, or one end has not yet seen the loss
        epoch = next(self._epochs)
        self._links[key] = epoch
        for here, there in ((a, b), (b, a)):
            self._later(self._delay(), lambda h=here, t=there: self._join(h, t, epoch))

    def connect_all(self) -> None:
        for a, b in itertools.combinations(sorted(self.machines), 2):
            self.connect(a, b)

    def break_link(self, a: DeviceId, b: DeviceId, noticed_within_s: float = 0.0) -> None:
        key = (min(a, b), max(a, b))
        epoch, self._links[key] = self._links.get(key), None
        for here, there in ((a, b), (b, a)):
            delay = self._delay() + self.random.uniform(0, noticed_within_s)
            self._later(delay, lambda h=here, t=there: self._leave(h, t, epoch))

    def split(self, *groups: list[DeviceId], noticed_within_s: float = 0.0) -> None:
        group_of = {device: i for i, group in enumerate(groups) for device in group}
        for a, b in itertools.combinations(sorted(self.machines), 2):
            if group_of.get(a) != group_of.get(b):
                self.break_link(a, b, noticed_within_s)

    def restart(self, device: DeviceId) -> None:
        """Power off and on: its connections break, its memory is gone."""
        for other in self.machines:
            if other != device:
                self.break_link(device, other)
                self._ends[device, other] = None
        self.machines[device] = Election(device, self.roles[device], SETTINGS)
        self.feed(device, Tick())

    # --- running

    def feed(self, device: DeviceId, event: Event) -> None:
        machine = self.machines[device]
        was_busy = machine.busy and not (isinstance(event, Busy) and not event.busy)
        for action in machine.handle(event, self.now):
            if isinstance(action, Send):
                self._send(device, action.peer, action.message)
            elif isinstance(action, Disconnect):
                self.cut.append((device, action.peer))
                self.break_link(device, action.peer)
                self._ends[device, action.peer] = None  # this end knows already
            elif isinstance(action, LeaseLost):
                assert not was_busy, f"{device} was busy and lost its lease: {action.reason}"
                self.lost.append((device, action.reason))
        machine.validate_state(self.now)
        self.check_safety()

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            deadlines = [(m.next_deadline(), d) for d, m in self.machines.items()]
            tick = min(((t, d) for t, d in deadlines if t is not None), default=None)
            arrival = self._events[0][0] if self._events else None
            if tick is not None and tick[0] <= end and (arrival is None or tick[0] <= arrival):
                self.now = max(self.now, tick[0])
                self.feed(tick[1], Tick())
            elif arrival is not None and arrival <= end:
                self.now = arrival
                heapq.heappop(self._events)[2]()
            else:
                self.now = end
                return

    def check_safety(self) -> None:
        for holder, machine in self.machines.items():
            if machine.holding:
                assert self.roles[holder] is Role.USER
            for grantor in machine.lease.devices - {holder} if machine.lease else ():
                epoch = self._ends.get((holder, grantor))
                if epoch is None or self._ends.get((grantor, holder)) != epoch:
                    continue  # the grantor knows already that the connection is lost
                slot = self.machines[grantor]._slot
                assert slot is not None, f"{holder} believes in {grantor}, which is free"
                assert (slot.holder, slot.granted) == (holder, True), f"{holder} believes in {grantor}: {slot}"
                assert slot.expires_at > self.now

    # --- questions

    def holders(self) -> set[DeviceId]:
        return {device for device, machine in self.machines.items() if machine.holding}

    def want(self, device: DeviceId, wanted: bool = True) -> None:
        self.feed(device, Want(wanted))

    def start(self, device: DeviceId) -> None:
        """The prompt that waited is being answered."""
        assert self.machines[device].ready
        self.feed(device, Busy(True))
        self.feed(device, Want(False))

    def finish(self, device: DeviceId) -> None:
        self.feed(device, Busy(False))

    # --- wires

    def _delay(self) -> float:
        return self.random.uniform(*self.delay_s)

    def _later(self, delay: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._order), call))

    def _join(self, here: DeviceId, there: DeviceId, epoch: int) -> None:
        if self._links.get((min(here, there), max(here, there))) == epoch:
            self._ends[here, there] = epoch
            self.feed(here, PeerJoined(there, self.roles[there]))
            for message in self._held.pop((there, here, epoch), []):
                self._deliver(there, here, message, epoch)

    def _leave(self, here: DeviceId, there: DeviceId, epoch: int | None) -> None:
        if epoch is not None and self._ends.get((here, there)) == epoch:
            self._ends[here, there] = None
            self.feed(here, PeerLost(there))

    def _send(self, source: DeviceId, target: DeviceId, message: Any) -> None:
        self.sent.append((source, target, message))
        epoch = self._ends.get((source, target))
        if epoch is None or self.random.random() < self.drop:
            return
        at = max(self.now + self._delay(), self._last_delivery.get((source, target, epoch), 0.0))
        self._last_delivery[source, target, epoch] = at
        self._later(at - self.now, lambda: self._deliver(source, target, message, epoch))

    def _deliver(self, source: DeviceId, target: DeviceId, message: Any, epoch: int) -> None:
        if self._links.get((min(source, target), max(source, target))) != epoch:
            return
        if self._ends.get((target, source)) == epoch:
            self.feed(target, Received(source, message))
        else:  # the receiver is not set up yet: frames are held back
            self._held.setdefault((source, target, epoch), []).append(message)


@pytest.fixture
def make_network() -> Callable[..., Network]:
    return Network

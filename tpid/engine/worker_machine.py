"""What a worker does with what comes: a machine without disk, cores, sockets or clock.

`handle(event) -> actions`. One job runs at a time, a load or a pass; what came meanwhile waits for its end, because
the job writes into the share's memory. The newest order counts: at most one load and one pass wait.

    event               what follows
    ------------------  ---------------------------------------------------------------------------------------
    LOAD of the holder  what is held goes; its share is loaded, then LOADED or FAILED
    LOAD of another     FAILED not_coordinator
    START               the pass is computed; a second one that waits breaks the protocol
    ABORT               the pass ends where it waits, and is not told of
    UNLOAD, its loss    what is held for this coordinator goes
    the lease goes      the same, and FAILED lease_ended tells it: who held the plan must know
    a job fails         FAILED with the reason. A load that failed holds nothing
    the machine stops   everything goes
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tpid.comm.connection import Connection
from tpid.comm.messages import Abort, Failed, Loaded, Message, Unload
from tpid.comm.tensors import StartHeader
from tpid.device import DeviceId
from tpid.engine.authority import Phase
from tpid.engine.weight_use import WeightUse
from tpid.errors import NotCoordinatorError, PassDroppedError, RemoteProtocolError, TpidError
from tpid.plan.plan import Plan

LEASE_ENDED: Final = "lease_ended"  # code of FAILED: this device is well, its share is gone


@dataclass(frozen=True, slots=True)
class Order:
    """A plan that a coordinator wants a share of."""

    hub: Connection
    plan: Plan


@dataclass(frozen=True, slots=True)
class Start:
    """A pass that waits to be computed."""

    header: StartHeader
    payload: memoryview


# --- events


@dataclass(frozen=True, slots=True)
class Ordered:
    """LOAD came."""

    order: Order


@dataclass(frozen=True, slots=True)
class Came:
    """UNLOAD or ABORT came."""

    hub: Connection
    message: Unload | Abort


@dataclass(frozen=True, slots=True)
class Started:
    """START came, whole."""

    hub: Connection
    start: Start


@dataclass(frozen=True, slots=True)
class HubLost:
    hub: Connection
    error: TpidError


@dataclass(frozen=True, slots=True)
class LeaseIsOf:
    """Whom this device has given its lease."""

    holder: DeviceId | None


@dataclass(frozen=True, slots=True)
class LoadEnded:
    """`use` where the share is loaded, else why it is not."""

    use: WeightUse | None
    failure: BaseException | None = None


@dataclass(frozen=True, slots=True)
class PassEnded:
    failure: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Stopped:
    """The daemon ends."""


Event = Ordered | Came | Started | HubLost | LeaseIsOf | LoadEnded | PassEnded | Stopped


# --- actions


@dataclass(frozen=True, slots=True)
class BeginLoad:
    order: Order


@dataclass(frozen=True, slots=True)
class BeginPass:
    start: Start


@dataclass(frozen=True, slots=True)
class EndJob:
    """End the load or pass as soon as nobody writes any more; its end is still an event."""

    error: TpidError


@dataclass(frozen=True, slots=True)
class FreeShare:
    reason: str


@dataclass(frozen=True, slots=True)
class Tell:
    hub: Connection
    message: Message


Action = BeginLoad | BeginPass | EndJob | FreeShare | Tell


class WorkerMachine:
    """The machine of one device. What is held belongs to one order; no order, nothing held."""

    def __init__(self) -> None:
        self._holder: DeviceId | None = None
        self._order: Order | None = None  # that the share is of; None from the moment it has to go
        self._next: Order | None = None  # that waits for the job's end
        self._loaded = False
        self._job: Order | Start | None = None  # what runs
        self._next_pass: Start | None = None
        self._newest_pass = -1  # begun, waiting or dropped: a pass is computed once
        self._actions: list[Action] = []

    @property
    def phase(self) -> Phase:
        if self._order is None and self._next is None:
            return Phase.IDLE
        if not self._loaded:
            return Phase.LOADING
        return Phase.PASS if self._job is not None or self._next_pass is not None else Phase.READY

    @property
    def holder(self) -> DeviceId | None:
        return self._holder

    @property
    def held_for(self) -> Connection | None:
        """Whose plan is loaded, is being loaded, or comes next."""
        order = self._next or self._order
        return order.hub if order is not None else None

    @property
    def order(self) -> Order | None:
        """Of the share that is loaded."""
        return self._order if self._loaded else None

    @property
    def loading(self) -> Order | None:
        """Whose share is being loaded."""
        return self._order if isinstance(self._job, Order) else None

    @property
    def pass_waits(self) -> bool:
        """Whether a pass is still to begin."""
        return self._next_pass is not None

    @property
    def newest_pass(self) -> int:
        return self._newest_pass

    def handle(self, event: Event) -> list[Action]:
        """Take one event. Raises RemoteProtocolError, with nothing changed, for what no coordinator may send."""
        self._actions = []
        match event:
            case Ordered(order):
                self._ordered(order)
            case Came(hub, message):
                self._came(hub, message)
            case Started(hub, start):
                self._started(hub, start)
            case HubLost(hub, error):
                self._drop_orders_of(hub, f"the coordinator is lost: {error.message}", error)
            case LeaseIsOf(holder):
                self._lease_is_of(holder)
            case LoadEnded() | PassEnded():
                self._job_ended(event)
            case Stopped():
                self._next = None
                self._drop("the daemon stops")
        self._begin_next()
        return self._actions

    def validate_state(self) -> None:
        """For tests: raises AssertionError when an invariant is broken."""
        checks = {
            "what is loaded is of an order": self._order is not None or not self._loaded,
            "a pass is of a loaded share": not isinstance(self._job, Start) or self._loaded or self._order is None,
            "who waits for nothing has begun": self._job is not None or (self._next is None and not self._next_pass),
            "a pass that waits is of a loaded share": self._next_pass is None or self._loaded,
            "a load that runs is not loaded yet": not isinstance(self._job, Order) or not self._loaded,
            "an order without a job is loaded": self._order is None or self._job is not None or self._loaded,
        }
        broken = [name for name, holds in checks.items() if not holds]
        if broken:
            raise AssertionError(str(broken))

    # --- orders

    def _ordered(self, order: Order) -> None:
        if order.hub.peer.id != self._holder:
            reason = "It has given its lease to another device."
            self._tell(order.hub, Failed(term=order.plan.term, code=NotCoordinatorError.code, reason=reason))
            return
        self._drop("a new plan came")
        self._next = order

    def _came(self, hub: Connection, message: Unload | Abort) -> None:
        if isinstance(message, Unload):
            self._drop_orders_of(hub, "the coordinator asked for it", None, term=message.term)
            return
        order = self.order
        if order is None or order.hub is not hub or order.plan.term != message.term:
            return
        self._newest_pass = max(self._newest_pass, message.pass_id)
        if self._next_pass is not None and self._next_pass.header.pass_id <= message.pass_id:
            self._next_pass = None
        if isinstance(self._job, Start) and self._job.header.pass_id <= message.pass_id:
            self._actions.append(EndJob(PassDroppedError(f"The coordinator dropped pass {message.pass_id}.")))

    def _started(self, hub: Connection, start: Start) -> None:
        order = self.order
        if order is None or order.hub is not hub or order.plan.term != start.header.term:
            return  # of a plan that is gone
        if start.header.pass_id <= self._newest_pass:
            return  # aborted before it was whole
        if self._next_pass is not None:
            raise RemoteProtocolError(
                f"Pass {start.header.pass_id} came while pass {self._next_pass.header.pass_id} was still to begin."
            )
        self._newest_pass = start.header.pass_id
        self._next_pass = start

    def _lease_is_of(self, holder: DeviceId | None) -> None:
        if holder == self._holder:
            return
        self._holder = holder
        for order in {id(order): order for order in (self._next, self._order) if order is not None}.values():
            if order.hub.peer.id == holder:
                continue
            reason = "Its lease has ended, so it has let its share go."
            self._tell(order.hub, Failed(term=order.plan.term, code=LEASE_ENDED, reason=reason))
            if order is self._next:
                self._next = None
            else:
                self._drop("the lease has ended")

    def _drop_orders_of(
        self, hub: Connection, reason: str, error: TpidError | None, *, term: int | None = None
    ) -> None:
        if self._next is not None and self._next.hub is hub and term in (None, self._next.plan.term):
            self._next = None
        if self._order is not None and self._order.hub is hub and term in (None, self._order.plan.term):
            self._drop(reason, error)

    def _drop(self, reason: str, error: TpidError | None = None) -> None:
        """What is held goes: at once, or when the job on it has ended."""
        if self._order is None:
            return
        self._order = self._next_pass = None
        self._loaded = False
        if self._job is None:
            self._actions.append(FreeShare(reason))
        else:
            self._actions.append(EndJob(error or PassDroppedError(f"The share is let go: {reason}.")))

    # --- jobs

    def _job_ended(self, event: LoadEnded | PassEnded) -> None:
        self._job = None
        order = self._order
        if order is None:  # dropped meanwhile
            self._actions.append(FreeShare("it is not needed any more"))
        elif isinstance(event, PassEnded):
            if event.failure is not None and not isinstance(event.failure, PassDroppedError):
                self._tell(order.hub, _failed(order.plan.term, event.failure))
        elif event.use is not None:
            self._loaded = True
            self._newest_pass = -1
            self._tell(order.hub, _loaded(order.plan.term, event.use))
        else:
            self._order = None
            self._actions.append(FreeShare("it could not be loaded"))
            self._tell(order.hub, _failed(order.plan.term, event.failure))

    def _begin_next(self) -> None:
        if self._job is not None:
            return
        if self._next is not None:
            self._order, self._next = self._next, None
            self._job = self._order
            self._actions.append(BeginLoad(self._order))
        elif self._next_pass is not None:
            self._job, self._next_pass = self._next_pass, None
            self._actions.append(BeginPass(self._job))

    def _tell(self, hub: Connection, message: Message) -> None:
        self._actions.append(Tell(hub, message))


def _loaded(term: int, use: WeightUse) -> Loaded:
    return Loaded(
        term=term,
        held_bytes=use.resident_bytes,
        window_bytes=use.window_bytes,
        streamed_bytes=use.streamed_bytes,
    )


def _failed(term: int, failure: BaseException | None) -> Failed:
    code = failure.code if isinstance(failure, TpidError) else "internal"
    return Failed(term=term, code=code, reason=str(failure) or type(failure).__name__)

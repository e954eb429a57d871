"""Any order of events: one job at a time, a share is freed only when nobody uses it, and nothing but a breach of the
protocol is raised."""

from typing import Any

from tests.unit.engine.peers import FakeConnection
from tpid.comm.messages import Abort, Unload
from tpid.comm.tensors import StartHeader
from tpid.comm.wire_dtype import WireDtype
from tpid.engine.weight_use import WeightUse
from tpid.engine.worker_machine import (
    BeginLoad,
    BeginPass,
    Came,
    Event,
    FreeShare,
    HubLost,
    LeaseIsOf,
    LoadEnded,
    Order,
    Ordered,
    PassEnded,
    Start,
    Started,
    WorkerMachine,
)
from tpid.errors import DeviceLostError, LoadError, RemoteProtocolError
from tpid.model.batch import Segment
from tpid.pack.geometry import Share, UnitRange
from tpid.plan.plan import Plan, Rank

MAX_EVENTS = 2000
_SHARE = Share(UnitRange(0, 1), UnitRange(0, 1))
_RANKS = tuple(Rank(device, device, _SHARE, 1) for device in ("hub", "me"))  # type: ignore[arg-type]


def fuzz(data: bytes) -> None:
    """Two bytes an event: what it is, and whose and of which term or pass."""
    machine, job, holds = WorkerMachine(), None, False
    hubs: list[Any] = [FakeConnection("a"), FakeConnection("b")]
    for what, which in zip(data[: 2 * MAX_EVENTS : 2], data[1 : 2 * MAX_EVENTS : 2], strict=False):
        event = _event(what, hubs[which & 1], which >> 1, job)
        if event is None:
            continue
        if isinstance(event, LoadEnded | PassEnded):
            holds = holds or (isinstance(event, LoadEnded) and event.use is not None)
            job = None
        try:
            actions = machine.handle(event)
        except RemoteProtocolError:
            actions = []
        for action in actions:
            if isinstance(action, BeginLoad | BeginPass):
                assert job is None
                assert holds == isinstance(action, BeginPass)
                job = action
            elif isinstance(action, FreeShare):
                assert job is None
                holds = False
        machine.validate_state()


def _event(what: int, hub: Any, number: int, job: object) -> Event | None:
    term, kind = number % 4, what % 8
    if kind >= 6:
        return _end(job, well=number % 2 == 0)
    plan = Plan(term, "pack", "model", _RANKS, (), 64, 8, 1, "fp32", 0)  # type: ignore[arg-type]
    header = StartHeader(term, number, (Segment(0, 0, 1),), WireDtype.FP32)
    events: list[Event] = [
        Ordered(Order(hub, plan)),
        Came(hub, Unload(term=term)),
        Came(hub, Abort(term=term, pass_id=number)),
        Started(hub, Start(header, memoryview(b""))),
        HubLost(hub, DeviceLostError("gone")),
        LeaseIsOf(hub.id if term else None),
    ]
    return events[kind]


def _end(job: object, *, well: bool) -> Event | None:
    """Of the job that runs, if one does."""
    failure = None if well else LoadError("no")
    if isinstance(job, BeginLoad):
        return LoadEnded(WeightUse(1) if well else None, failure)
    return PassEnded(failure) if job is not None else None

"""The worker's life, event by event, and under any order of events."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.unit.engine.peers import FakeConnection
from tpid.comm.messages import Abort, Failed, Loaded, Unload
from tpid.comm.tensors import StartHeader
from tpid.comm.wire_dtype import WireDtype
from tpid.engine.authority import Phase
from tpid.engine.weight_use import WeightUse
from tpid.engine.worker_machine import (
    LEASE_ENDED,
    Action,
    BeginLoad,
    BeginPass,
    Came,
    EndJob,
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
    Stopped,
    Tell,
    WorkerMachine,
)
from tpid.errors import DeviceLostError, LoadError, PassDroppedError, RemoteProtocolError
from tpid.model.batch import Segment
from tpid.pack.geometry import Share, UnitRange
from tpid.plan.plan import Plan, Rank

USE = WeightUse(1000)
SHARE = Share(UnitRange(0, 1), UnitRange(0, 1))


def plan_of(term: int) -> Plan:
    ranks = tuple(Rank(device, device, SHARE, 1) for device in ("hub", "me"))  # type: ignore[arg-type]
    return Plan(term, "pack", "model", ranks, (), 64, 8, 1, "fp32", 0)  # type: ignore[arg-type]


def start_of(term: int, pass_id: int) -> Start:
    return Start(StartHeader(term, pass_id, (Segment(0, 0, 1),), WireDtype.FP32), memoryview(b""))


class Shell:
    """Performs nothing and remembers all."""

    def __init__(self) -> None:
        self.machine = WorkerMachine()
        self.hub: Any = FakeConnection("hub")
        self.other: Any = FakeConnection("other")

    def feed(self, event: Event) -> list[Action]:
        actions = self.machine.handle(event)
        self.machine.validate_state()
        return actions

    def loaded(self, term: int = 1) -> "Shell":
        self.feed(LeaseIsOf(self.hub.id))
        self.feed(Ordered(Order(self.hub, plan_of(term))))
        self.feed(LoadEnded(USE))
        return self

    def passing(self, pass_id: int = 1) -> "Shell":
        self.loaded()
        self.feed(Started(self.hub, start_of(1, pass_id)))
        return self


@pytest.fixture
def shell() -> Shell:
    return Shell()


def told(actions: list[Action]) -> list[tuple[str, Any]]:
    return [(action.hub.peer.id, action.message) for action in actions if isinstance(action, Tell)]


def test_a_share_is_loaded_and_told(shell: Shell) -> None:
    shell.feed(LeaseIsOf(shell.hub.id))
    order = Order(shell.hub, plan_of(1))
    assert shell.feed(Ordered(order)) == [BeginLoad(order)]
    assert shell.machine.phase is Phase.LOADING
    assert told(shell.feed(LoadEnded(USE))) == [("hub", Loaded(term=1, held_bytes=1000))]
    assert shell.machine.phase is Phase.READY


def test_a_load_of_who_does_not_hold_the_lease_is_answered_and_changes_nothing(shell: Shell) -> None:
    shell.loaded()
    ((device, message),) = told(shell.feed(Ordered(Order(shell.other, plan_of(9)))))
    assert (device, message.code, message.term) == ("other", "not_coordinator", 9)
    assert shell.machine.order is not None
    assert shell.machine.order.plan.term == 1


def test_a_load_that_failed_holds_nothing(shell: Shell) -> None:
    shell.feed(LeaseIsOf(shell.hub.id))
    shell.feed(Ordered(Order(shell.hub, plan_of(1))))
    actions = shell.feed(LoadEnded(None, LoadError("no such file")))
    assert [message.code for _, message in told(actions)] == ["load"]
    assert FreeShare("it could not be loaded") in actions
    assert shell.machine.phase is Phase.IDLE


def test_the_lease_that_ends_takes_the_share_and_tells_who_had_it(shell: Shell) -> None:
    shell.loaded()
    actions = shell.feed(LeaseIsOf(None))
    assert [(device, message.code) for device, message in told(actions)] == [("hub", LEASE_ENDED)]
    assert any(isinstance(action, FreeShare) for action in actions)
    assert shell.machine.phase is Phase.IDLE


def test_the_lease_that_ends_in_a_pass_ends_the_pass_first(shell: Shell) -> None:
    shell.passing()
    actions = shell.feed(LeaseIsOf("other"))  # type: ignore[arg-type]
    assert [message.code for _, message in told(actions)] == [LEASE_ENDED]
    assert any(isinstance(action, EndJob) for action in actions)
    assert not any(isinstance(action, FreeShare) for action in actions)
    assert any(isinstance(action, FreeShare) for action in shell.feed(PassEnded(PassDroppedError("it"))))


def test_unload_and_abort_of_others_or_of_other_terms_change_nothing(shell: Shell) -> None:
    shell.passing()
    assert shell.feed(Came(shell.other, Unload(term=1))) == []
    assert shell.feed(Came(shell.other, Abort(term=1, pass_id=1))) == []
    assert shell.feed(Came(shell.hub, Unload(term=2))) == []
    assert shell.feed(Came(shell.hub, Abort(term=2, pass_id=1))) == []
    assert shell.feed(Came(shell.hub, Abort(term=1, pass_id=0))) == []
    assert shell.machine.phase is Phase.PASS


def test_an_abort_ends_the_pass_and_the_next_may_wait_for_its_end(shell: Shell) -> None:
    shell.passing()
    (end,) = shell.feed(Came(shell.hub, Abort(term=1, pass_id=1)))
    assert isinstance(end, EndJob)
    following = start_of(1, 2)
    assert shell.feed(Started(shell.hub, following)) == []
    assert shell.feed(PassEnded(PassDroppedError("it"))) == [BeginPass(following)]


def test_an_abort_of_a_pass_that_waits_takes_it_away(shell: Shell) -> None:
    shell.passing()
    shell.feed(Came(shell.hub, Abort(term=1, pass_id=1)))
    shell.feed(Started(shell.hub, start_of(1, 2)))
    shell.feed(Came(shell.hub, Abort(term=1, pass_id=2)))
    third = start_of(1, 3)
    shell.feed(Started(shell.hub, third))
    assert shell.feed(PassEnded(PassDroppedError("it"))) == [BeginPass(third)]


def test_a_start_that_was_aborted_before_it_was_whole_is_not_computed(shell: Shell) -> None:
    shell.loaded()
    shell.feed(Came(shell.hub, Abort(term=1, pass_id=4)))
    assert shell.feed(Started(shell.hub, start_of(1, 4))) == []
    assert shell.machine.phase is Phase.READY


def test_two_passes_that_wait_break_the_protocol_and_change_nothing(shell: Shell) -> None:
    shell.passing()
    second = start_of(1, 2)
    shell.feed(Started(shell.hub, second))
    with pytest.raises(RemoteProtocolError, match="still to begin"):
        shell.machine.handle(Started(shell.hub, start_of(1, 3)))
    shell.machine.validate_state()
    assert shell.feed(PassEnded()) == [BeginPass(second)]


def test_a_pass_that_fails_is_told_and_the_share_stays(shell: Shell) -> None:
    shell.passing()
    ((_, message),) = told(shell.feed(PassEnded(RuntimeError("no memory"))))
    assert isinstance(message, Failed)
    assert message.reason == "no memory"
    assert shell.machine.phase is Phase.READY


def test_of_loads_that_come_while_one_runs_the_newest_counts(shell: Shell) -> None:
    shell.feed(LeaseIsOf(shell.hub.id))
    shell.feed(Ordered(Order(shell.hub, plan_of(1))))
    (end,) = shell.feed(Ordered(Order(shell.hub, plan_of(2))))
    assert isinstance(end, EndJob)
    newest = Order(shell.hub, plan_of(3))
    assert shell.feed(Ordered(newest)) == []
    assert shell.feed(LoadEnded(USE))[-1] == BeginLoad(newest)
    assert told(shell.feed(LoadEnded(USE))) == [("hub", Loaded(term=3, held_bytes=1000))]


def test_an_unload_stops_a_load(shell: Shell) -> None:
    shell.feed(LeaseIsOf(shell.hub.id))
    shell.feed(Ordered(Order(shell.hub, plan_of(1))))
    shell.feed(Came(shell.hub, Unload(term=1)))
    actions = shell.feed(LoadEnded(USE))
    assert told(actions) == []
    assert any(isinstance(action, FreeShare) for action in actions)


class AnyOrder(RuleBasedStateMachine):
    """Whatever comes in whatever order: one job at a time, and what is freed was not in use."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = WorkerMachine()
        self.hubs: list[Any] = [FakeConnection("a"), FakeConnection("b")]
        self.job: Action | None = None
        self.has_share = False
        self.next_pass = 0

    def feed(self, event: Event) -> None:
        for action in self.machine.handle(event):
            match action:
                case BeginLoad() | BeginPass():
                    assert self.job is None
                    assert self.has_share == isinstance(action, BeginPass)
                    self.job = action
                case EndJob():
                    assert self.job is not None
                case FreeShare():
                    assert self.job is None
                    self.has_share = False
                case Tell(_, Loaded()):
                    assert self.has_share

    @rule(hub=st.integers(0, 1), term=st.integers(0, 3))
    def order(self, hub: int, term: int) -> None:
        self.feed(Ordered(Order(self.hubs[hub], plan_of(term))))

    @rule(hub=st.integers(0, 1), term=st.integers(0, 3))
    def unload(self, hub: int, term: int) -> None:
        self.feed(Came(self.hubs[hub], Unload(term=term)))

    @rule(hub=st.integers(0, 1), term=st.integers(0, 3), back=st.integers(0, 3))
    def abort(self, hub: int, term: int, back: int) -> None:
        self.feed(Came(self.hubs[hub], Abort(term=term, pass_id=max(self.next_pass - back, 0))))

    @rule(hub=st.integers(0, 1), term=st.integers(0, 3))
    def start(self, hub: int, term: int) -> None:
        self.next_pass += 1
        waits = self.machine.pass_waits
        try:
            self.feed(Started(self.hubs[hub], start_of(term, self.next_pass)))
        except RemoteProtocolError:
            assert waits

    @rule(hub=st.sampled_from(["a", "b", None]))
    def lease(self, hub: Any) -> None:
        self.feed(LeaseIsOf(hub))

    @rule(hub=st.integers(0, 1))
    def lose(self, hub: int) -> None:
        self.feed(HubLost(self.hubs[hub], DeviceLostError("gone")))

    @precondition(lambda self: self.job is not None)
    @rule(well=st.booleans())
    def end_job(self, well: bool) -> None:
        job, self.job = self.job, None
        if isinstance(job, BeginLoad):
            self.has_share = well
            self.feed(LoadEnded(USE if well else None, None if well else LoadError("no")))
        else:
            self.feed(PassEnded(None if well else LoadError("no")))

    @invariant()
    def holds(self) -> None:
        self.machine.validate_state()
        if self.machine.phase is Phase.IDLE and self.job is None:
            assert not self.has_share

    def teardown(self) -> None:
        self.feed(Stopped())
        if self.job is not None:
            self.end_job(True)  # type: ignore[arg-type]
        assert self.machine.phase is Phase.IDLE
        assert not self.has_share


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)

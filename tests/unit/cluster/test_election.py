"""The rules of the election, one by one, and a peer that sends anything."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpid.cluster.election import Election
from tpid.cluster.lease import (
    TERM_STEP,
    BumpTerm,
    Busy,
    ElectionSettings,
    LeaseLost,
    Leave,
    PeerJoined,
    PeerLost,
    Received,
    Send,
    Tick,
    Want,
)
from tpid.comm.messages import Campaign, Deny, Grant, Release, Renew
from tpid.device import DeviceId, Role
from tpid.errors import LocalProtocolError, RemoteProtocolError

Network = Any
TTL_S = 3.0


@pytest.fixture
def network(make_network: Callable[..., Network]) -> Network:
    """Users a and b, helper h, all connected; after a while one of the users holds."""
    net = make_network()
    for name, role in (("a", Role.USER), ("b", Role.USER), ("h", Role.HELPER)):
        net.add(name, role)
    net.connect_all()
    net.run(4.0)
    return net


def holder_and_other(network: Network) -> tuple[DeviceId, DeviceId]:
    (holder,) = network.holders()
    return holder, DeviceId("b" if holder == "a" else "a")


def test_a_user_device_alone_coordinates_after_its_delay(make_network: Callable[..., Network]) -> None:
    net = make_network()
    a = net.add("a")
    net.run(0.25)
    assert net.machines[a].coordinator is None
    net.run(1.0)
    assert net.machines[a].lease.devices == {a}
    assert net.machines[a].next_deadline() is None  # nobody to renew with: it may sleep


def test_a_helper_alone_never_does(make_network: Callable[..., Network]) -> None:
    net = make_network()
    h = net.add("h", Role.HELPER)
    net.run(100.0)
    assert net.machines[h].coordinator is None
    assert net.machines[h].next_deadline() is None
    with pytest.raises(LocalProtocolError):
        net.want(h)


def test_the_delay_is_fixed_for_a_device_and_term_and_differs_between_devices() -> None:
    settings = ElectionSettings(idle_delay_s=0.3, idle_jitter_s=0.5)
    waits = {settings.idle_wait_s(DeviceId(f"{i:064x}"), 1) for i in range(50)}
    assert len(waits) == 50
    assert all(0.3 <= wait < 0.8 for wait in waits)
    assert settings.idle_wait_s(DeviceId("a"), 1) == settings.idle_wait_s(DeviceId("a"), 1)


def test_an_idle_holder_releases_all_before_it_grants(network: Network) -> None:
    old, new = holder_and_other(network)
    network.sent.clear()
    network.want(new)
    network.run(0.5)
    assert network.holders() == {new}
    assert network.machines[new].ready
    assert network.machines[new].lease.devices == {"a", "b", "h"}
    by_old = [(target, type(message)) for source, target, message in network.sent if source == old]
    assert by_old[:3] == [(by_old[0][0], Release), (by_old[1][0], Release), (new, Grant)]
    assert {by_old[0][0], by_old[1][0]} == {new, "h"}
    assert [device for device, _ in network.lost][-1] == old


def test_a_busy_holder_finishes_first_and_then_gives_way(network: Network) -> None:
    old, new = holder_and_other(network)
    network.want(old)
    network.start(old)
    network.want(new)
    network.run(10.0)
    assert network.holders() == {old}
    assert network.machines[new].coordinator == old
    network.finish(old)
    network.run(0.5)  # at once, not with the next round
    assert network.machines[new].ready


def test_who_no_longer_waits_gets_nothing(network: Network) -> None:
    old, new = holder_and_other(network)
    network.want(old)
    network.start(old)
    network.want(new)
    network.run(0.2)
    network.want(new, False)
    network.run(0.2)
    network.finish(old)
    network.run(5.0)
    assert network.holders() == {old}


def test_a_new_device_is_asked_at_the_same_term(network: Network) -> None:
    (holder,) = network.holders()
    term = network.machines[holder].term
    c = network.add("c", Role.HELPER)
    network.connect_all()
    network.run(0.5)
    assert network.machines[holder].lease.devices == {"a", "b", "c", "h"}
    assert (network.machines[c].coordinator, network.machines[c].term) == (holder, term)


def test_a_bump_is_carried_by_renewals_and_keeps_the_grants(network: Network) -> None:
    (holder,) = network.holders()
    before = network.machines[holder].lease
    network.sent.clear()
    network.feed(holder, BumpTerm())
    assert network.machines[holder].lease.devices == before.devices
    assert network.machines[holder].lease.term == before.term + 1
    assert network.machines[holder].unanswered == before.devices - {holder}
    assert [type(m) for _, _, m in network.sent] == [Renew, Renew]
    network.run(0.5)
    assert network.machines[holder].ready
    assert {m.term for m in network.machines.values()} == {before.term + 1}


def test_a_lost_connection_frees_the_slot_at_once(network: Network) -> None:
    holder, other = holder_and_other(network)
    network.break_link(holder, other)
    network.break_link(holder, DeviceId("h"))
    network.run(0.06)
    assert network.machines["h"].coordinator is None
    network.run(1.5)
    assert network.machines[other].lease.devices == {other, "h"}


def test_silence_frees_the_slot_after_the_time_to_live_and_cuts_the_connection(network: Network) -> None:
    (holder,) = network.holders()
    network.drop = 1.0
    network.run(TTL_S + 1.1)  # safety is checked on the way: nobody believes longer than was granted
    assert network.machines["h"].coordinator != holder
    assert {peer for device, peer in network.cut if device == holder} == {"a", "b", "h"} - {holder}
    assert network.machines[holder].lease.devices == {holder}


def test_an_idle_device_of_a_higher_term_does_not_take_the_lease_by_joining(
    make_network: Callable[..., Network],
) -> None:
    net = make_network()
    for name in ("a", "b"):
        net.add(name)
    net.connect_all()
    net.run(3.0)
    holder, other = holder_and_other(net)
    net.split([holder], [other])
    net.run(2.0)
    for _ in range(5):
        net.feed(other, BumpTerm())
    net.feed(other, Leave())  # holds no more, and remembers the high term
    net.connect_all()
    net.run(5.0)
    assert net.holders() == {holder}
    assert net.machines[holder].lease.devices == {"a", "b"}
    assert net.machines[holder].term > 6  # raised, as it was idle


def test_a_busy_holder_raises_its_term_only_when_idle(make_network: Callable[..., Network]) -> None:
    net = make_network()
    a, h = net.add("a"), net.add("h", Role.HELPER)
    net.want(a)
    net.start(a)
    term = net.machines[a].term
    net.machines[h]._highest_term = 40
    net.machines[h]._last_granted = (40, DeviceId("x"))
    net.connect_all()
    net.run(5.0)
    assert net.machines[a].lease.term == term
    assert net.machines[a].lease.devices == {a}
    assert net.machines[a].refusing == {h: h}
    net.finish(a)
    net.run(1.5)
    assert net.machines[a].lease.devices == {a, h}
    assert net.machines[a].lease.term > 40


def test_a_peer_held_by_a_device_out_of_reach_does_not_stop_a_prompt(make_network: Callable[..., Network]) -> None:
    net = make_network()
    for name in ("a", "b"):
        net.add(name)
    h = net.add("h", Role.HELPER)
    net.connect(DeviceId("b"), h)
    net.run(2.0)
    net.connect(DeviceId("a"), h)  # but never a with b
    net.run(2.0)
    net.want(DeviceId("a"))
    net.run(0.5)
    assert net.machines[h].coordinator == "b"
    assert net.machines["a"].ready
    assert net.machines["a"].lease.devices == {"a"}


def test_who_leaves_gives_back_and_asks_no_more(network: Network) -> None:
    holder, other = holder_and_other(network)
    network.feed(holder, Leave())
    network.run(10.0)
    assert network.holders() == {other}
    with pytest.raises(LocalProtocolError):
        network.want(holder)


def test_only_the_holder_may_be_busy_or_raise_the_term(network: Network) -> None:
    _, other = holder_and_other(network)
    for event in (Busy(True), BumpTerm()):
        with pytest.raises(LocalProtocolError):
            network.feed(other, event)


@pytest.mark.parametrize("message", [Campaign(term=9, reason="prompt"), Renew(term=9)])
def test_a_helper_that_asks_for_the_lease_breaks_the_protocol(network: Network, message: Any) -> None:
    (holder,) = network.holders()
    before = network.machines[holder].lease
    with pytest.raises(RemoteProtocolError, match="Helper h"):
        network.feed(holder, Received(DeviceId("h"), message))
    assert network.machines[holder].lease == before


FAR_TERMS = (2 * TERM_STEP, 2**62, 2**63 - 1)


@pytest.mark.parametrize("term", FAR_TERMS)
@pytest.mark.parametrize(
    "message",
    [
        lambda term: Campaign(term=term, reason="prompt"),
        lambda term: Renew(term=term),
        lambda term: Deny(term=0, holder=None, highest_term=term),
    ],
)
def test_a_term_far_above_is_followed_by_one_step_a_second(message: Callable[[int], Any], term: int) -> None:
    """So no number of frames uses up the 63 bits, and none keeps anybody out for good."""
    b = DeviceId("b")
    machine = Election(DeviceId("a"), Role.USER, ElectionSettings())
    machine.handle(PeerJoined(b, Role.USER), 0.0)
    for _ in range(50):
        machine.handle(Received(b, message(min(term, machine._highest_term + 2**31))), 0.5)
        machine.handle(Received(b, message(term)), 0.5)
        machine.validate_state(0.5)
    assert TERM_STEP <= machine._highest_term < TERM_STEP + 100  # its own terms beside
    machine.handle(Received(b, message(term)), 1.5)
    assert 2 * TERM_STEP <= machine._highest_term < 2 * TERM_STEP + 100


def test_a_device_that_has_started_anew_catches_up_with_a_home_far_ahead(network: Network) -> None:
    (holder,) = network.holders()
    other = next(device for device in network.machines if device != holder)
    network.machines[holder]._highest_term = 5 * TERM_STEP
    network.feed(holder, BumpTerm())
    network.restart(other)
    network.run(5.0)
    network.connect_all()
    network.run(15.0)
    (holder,) = network.holders()
    assert network.machines[holder].lease is not None
    assert network.machines[holder].lease.devices == set(network.machines)


def test_a_holder_that_stood_still_sees_that_its_leases_have_lapsed(network: Network) -> None:
    """Before any timer has run: whoever asks says what time it is."""
    holder, _ = holder_and_other(network)
    machine = network.machines[holder]
    assert machine.lease_at(network.now).devices == set(network.machines)
    assert machine.lease_at(network.now + 1000.0).devices == {holder}
    assert machine.lease_at(network.now + 1000.0).term == machine.term
    machine.handle(Tick(), network.now + 1000.0)
    assert machine.lease == machine.lease_at(network.now + 1000.0)
    assert not machine.ready  # it asks anew, and waits for the answers


def test_frames_of_a_connection_that_is_gone_are_dropped() -> None:
    machine = Election(DeviceId("a"), Role.USER, ElectionSettings())
    assert machine.handle(Received(DeviceId("b"), Campaign(term=1, reason="prompt")), 0.0) == []


def test_a_grant_nobody_asked_for_is_given_back_and_not_believed() -> None:
    machine = Election(DeviceId("a"), Role.HELPER, ElectionSettings())
    machine.handle(PeerJoined(DeviceId("b"), Role.USER), 0.0)
    actions = machine.handle(Received(DeviceId("b"), Grant(term=1, ttl_s=600)), 0.0)
    assert actions == [Send(DeviceId("b"), Release(term=1))]
    assert machine.lease is None


def test_a_peer_that_always_asks_for_more_raises_the_term_once_a_round() -> None:
    a, b = DeviceId("a"), DeviceId("b")
    machine = Election(a, Role.USER, ElectionSettings(ttl_s=TTL_S))
    machine.handle(Want(True), 0.0)
    machine.handle(PeerJoined(b, Role.USER), 0.0)
    terms = set()
    for step in range(100):  # answers at once, within one round
        terms.add(machine.term)
        machine.handle(Received(b, Deny(term=machine.term, holder=None, highest_term=machine.term)), step * 0.001)
    assert len(terms) == 2
    machine.handle(Tick(), 1.5)
    machine.handle(Received(b, Deny(term=machine.term, holder=None, highest_term=machine.term)), 1.5)
    assert machine.term not in terms


PEERS = [DeviceId("a"), DeviceId("c"), DeviceId("h")]
TERMS = st.integers(0, 12) | st.sampled_from(FAR_TERMS)
MESSAGES = st.one_of(
    st.builds(Campaign, term=TERMS, reason=st.sampled_from(["idle", "prompt"])),
    st.builds(Grant, term=TERMS, ttl_s=st.floats(0.001, 600)),
    st.builds(Deny, term=TERMS, holder=st.sampled_from([None, "a", "b", "c", "nobody"]), highest_term=TERMS),
    st.builds(Renew, term=TERMS),
    st.builds(Release, term=TERMS),
)
EVENTS = st.one_of(
    st.builds(Received, st.sampled_from(PEERS), MESSAGES),
    st.builds(lambda peer: PeerJoined(peer, Role.HELPER if peer == "h" else Role.USER), st.sampled_from(PEERS)),
    st.builds(PeerLost, st.sampled_from(PEERS)),
    st.builds(Want, st.booleans()),
    st.builds(Busy, st.booleans()),
    st.sampled_from([BumpTerm(), Tick(), Leave()]),
)


@given(st.lists(st.tuples(EVENTS, st.floats(0, 4)), max_size=40), st.sampled_from(Role))
def test_whatever_peers_send_the_state_stays_valid(events: list[tuple[Any, float]], role: Role) -> None:
    machine = Election(DeviceId("b"), role, ElectionSettings(ttl_s=TTL_S))
    now = 0.0
    machine.handle(Tick(), now)
    for event, later in events:
        now += later
        was_busy, was_holding = machine.busy, machine.holding
        try:
            actions = machine.handle(event, now)
        except (RemoteProtocolError, LocalProtocolError):
            actions = machine.handle(Tick(), now)
        machine.validate_state(now)
        lost = [action for action in actions if isinstance(action, LeaseLost)]
        assert len(lost) <= was_holding + 1  # one more if it took its slot at this very moment
        if was_busy and not isinstance(event, Busy | Leave):
            assert machine.holding
            assert not lost

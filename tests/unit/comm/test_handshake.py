from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpid.comm.handshake import Handshake, Outcome
from tpid.comm.messages import Bye, Hello, Message, Ping, Refuse
from tpid.errors import (
    BusyError,
    DeviceLostError,
    RefusedError,
    RemoteProtocolError,
    TpidError,
    VersionMismatchError,
)

HelloOf = Callable[..., Hello]


def meet(
    dialler: Hello, listener: Hello, accept: Callable[[Hello], None] = lambda _: None
) -> tuple[Outcome | None, Outcome]:
    """Both sides over a perfect link: what came out at the dialler (None: nothing was said to it), the listener."""
    one = Handshake(dialler, dialled=True, peer_address="10.0.0.1:1")
    two = Handshake(listener, dialled=False, peer_address="10.0.0.2:2", accept=accept)
    assert two.start() is None
    first = one.start()
    assert first == dialler
    at_listener = two.received(first)
    at_dialler = None if at_listener.send is None else one.received(at_listener.send)
    return at_dialler, at_listener


def test_two_devices_of_a_cluster_know_each_other(hello_of: HelloOf) -> None:
    asked: list[Hello] = []
    at_dialler, at_listener = meet(hello_of(1), hello_of(2), asked.append)
    assert at_dialler == Outcome(peer=hello_of(2).profile)
    assert at_listener == Outcome(send=hello_of(2), peer=hello_of(1).profile)
    assert asked == [hello_of(1)]


@given(
    st.tuples(st.integers(0, 3), st.sampled_from("ab")),
    st.tuples(st.integers(0, 3), st.sampled_from("ab")),
    st.booleans(),
)
def test_both_sides_always_agree(hello_of: HelloOf, one: tuple[int, str], two: tuple[int, str], accepts: bool) -> None:
    def accept(_: Hello) -> None:
        if not accepts:
            raise BusyError("no")

    at_dialler, at_listener = meet(hello_of(*one), hello_of(*two), accept)
    good = one[0] != two[0] and one[1] == two[1] and accepts
    assert at_dialler is not None
    for outcome in (at_dialler, at_listener):
        assert (outcome.peer is not None) == good
        assert (outcome.error is None) == good


def test_another_cluster_is_refused_and_told_why(hello_of: HelloOf) -> None:
    at_dialler, at_listener = meet(hello_of(1, "home"), hello_of(2, "work"))
    assert at_dialler is not None
    for error in (at_dialler.error, at_listener.error):
        assert isinstance(error, RefusedError)
        assert error.reason_code == "other_cluster"
        assert "'home'" in str(error)
        assert "'work'" in str(error)
    assert "10.0.0.1:1 refused" in str(at_dialler.error)


def test_itself_is_refused(hello_of: HelloOf) -> None:
    at_dialler, _ = meet(hello_of(1), hello_of(1))
    assert at_dialler is not None
    assert isinstance(at_dialler.error, RefusedError)
    assert at_dialler.error.reason_code == "self"


def test_the_owner_may_refuse(hello_of: HelloOf) -> None:
    def accept(_: Hello) -> None:
        raise BusyError("A connection is up already.", hint="Use that.")

    at_dialler, at_listener = meet(hello_of(1), hello_of(2), accept)
    assert at_listener.send == Refuse(code="busy", reason="A connection is up already. Use that.")
    assert isinstance(at_listener.error, BusyError)
    assert at_dialler is not None
    assert isinstance(at_dialler.error, RefusedError)
    assert at_dialler.error.reason_code == "busy"


def test_the_dialler_may_refuse_too(hello_of: HelloOf) -> None:
    """A listener that takes everybody: the dialler still looks at whom it reached."""
    one = Handshake(hello_of(1), dialled=True, peer_address="a:1")
    outcome = one.received(hello_of(2, "work"))
    assert isinstance(outcome.send, Refuse)
    assert outcome.send.code == "other_cluster"
    assert outcome.peer is None


@pytest.mark.parametrize("dialled", [True, False])
@pytest.mark.parametrize(
    ("message", "error"), [(Bye(reason="x"), DeviceLostError), (Ping(sent_s=1), RemoteProtocolError)]
)
def test_anything_else_ends_it(hello_of: HelloOf, dialled: bool, message: Message, error: type[TpidError]) -> None:
    outcome = Handshake(hello_of(1), dialled=dialled, peer_address="a:1").received(message)
    assert type(outcome.error) is error
    assert outcome.peer is None


def test_only_another_version_is_answered(hello_of: HelloOf) -> None:
    handshake = Handshake(hello_of(1), dialled=False, peer_address="a:1")
    assert handshake.unreadable(RemoteProtocolError("noise")) is None
    refusal = handshake.unreadable(VersionMismatchError("2"))
    assert refusal == Refuse(code="version_mismatch", reason="Device device-1 speaks version 2.")

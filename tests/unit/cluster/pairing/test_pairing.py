"""Both machines against each other, and against those who should not get in."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.cluster.pairing.home import CODE, OTHER_CODE, Guest, Home, Network, fast_pake, run_pairing
from tpid.cluster.pairing.actions import Invited, Joined, Run
from tpid.cluster.pairing.code import Code
from tpid.cluster.pairing.inviter import N_TRIES, PAUSE_S, RUN_S, VALID_S
from tpid.cluster.pairing.joiner import STEP_S
from tpid.cluster.pairing.messages import (
    Done,
    Refuse,
    Welcome,
    Why,
)
from tpid.device import Role
from tpid.errors import PairingError


@pytest.mark.parametrize("role", list(Role))
def test_one_code_pairs_two_devices(role: Role) -> None:
    home, guest = Home(role=role), Guest()
    run = run_pairing(home, guest)
    assert home.outcome == Invited(guest.identity.id, "pi", role, acknowledged=True)
    joined = guest.outcome
    assert isinstance(joined, Joined)
    assert (joined.inviter, joined.inviter_name) == (home.identity.id, "laptop")
    assert (joined.name, joined.role) == ("pi", role)
    assert joined.roster == home.roster
    assert joined.roster.members[guest.identity.id].role is role
    assert run in home.closed
    assert home.inviter.has_ended
    assert guest.joiner.has_ended
    assert home.inviter.deadline_s is guest.joiner.deadline_s is None


def test_a_name_that_is_taken_gets_a_number_and_both_say_so() -> None:
    home, guest = Home(), Guest(name="Laptop")
    run_pairing(home, guest)
    assert isinstance(home.outcome, Invited)
    assert isinstance(guest.outcome, Joined)
    assert home.outcome.name == guest.outcome.name == "Laptop-2"


@pytest.mark.parametrize("name", ["", " pi", "p\ni", "ü" * 128])
def test_a_name_that_cannot_be_told_is_refused_at_once(name: str) -> None:
    with pytest.raises(PairingError, match="cannot be the name"):
        Guest(name=name)


def test_three_wrong_codes_end_the_invitation_on_both_screens() -> None:
    home = Home()
    for tries_left in (2, 1, 0):
        guest = Guest(OTHER_CODE)
        run_pairing(home, guest)
        assert isinstance(guest.outcome, PairingError)
        assert "not the one on the other device" in str(guest.outcome)
        assert (f"Tries left: {tries_left}" in str(guest.outcome)) == (tries_left > 0)
    assert "invitation has ended" in str(guest.outcome)
    assert isinstance(home.outcome, PairingError)
    assert "3 wrong codes" in str(home.outcome)
    late = Guest(CODE)
    run_pairing(home, late)
    assert isinstance(late.outcome, PairingError)
    assert "no invitation open" in str(late.outcome)
    assert not home.admitted


def test_the_right_code_still_works_after_two_wrong_ones() -> None:
    home = Home()
    for code in (OTHER_CODE, OTHER_CODE, CODE):
        guest = Guest(code)
        run_pairing(home, guest)
    assert isinstance(guest.outcome, Joined)
    assert isinstance(home.outcome, Invited)


# Time, and those who leave


def test_an_invitation_ends_by_itself() -> None:
    home = Home()
    assert home.inviter.deadline_s == VALID_S
    home.do(home.inviter.tick(VALID_S - 0.001))
    assert home.outcome is None
    home.do(home.inviter.tick(VALID_S))
    assert "Nobody has joined within 5 minutes" in str(home.outcome)
    assert home.inviter.deadline_s is None


def test_an_invitation_can_be_cancelled_and_the_joiner_is_told() -> None:
    home, guest = Home(), Guest()
    run = home.connect()
    (hello,) = guest.take()
    home.receive(run, hello)
    home.do(home.inviter.cancel())
    assert home.sent[run][-1] == Refuse(Why.CANCELLED, N_TRIES)
    assert "cancelled" in str(home.outcome)
    guest.receive(home.sent[run][-1])
    assert "cancelled on the other device" in str(guest.outcome)
    assert home.inviter.cancel() == []


def test_one_at_a_time() -> None:
    home = Home()
    first = home.connect()
    second = home.connect()
    assert home.sent[second] == [Refuse(Why.BUSY)]
    assert second in home.closed
    assert first not in home.closed
    home.do(home.inviter.lost(first, home.now_s))
    assert home.connect() not in home.closed
    home.do(home.inviter.connected(Run(99), home.now_s) if home.sent.setdefault(Run(99), []) == [] else [])
    assert home.sent[Run(99)] == [Refuse(Why.BUSY)]


def test_strangers_cannot_keep_the_device_computing() -> None:
    home = Home()
    run = home.connect()
    home.do(home.inviter.lost(run, home.now_s))
    home.sent[Run(99)] = []
    home.do(home.inviter.connected(Run(99), home.now_s + PAUSE_S / 2))
    assert home.sent[Run(99)] == [Refuse(Why.BUSY)]


@pytest.mark.parametrize("how", ["lost", "late", "unreadable", "out of order"])
def test_who_goes_before_it_has_guessed_costs_no_try(how: str) -> None:
    home, guest = Home(), Guest(OTHER_CODE)
    run = home.connect()
    (hello,) = guest.take()
    home.receive(run, hello)
    match how:
        case "lost":
            home.do(home.inviter.lost(run, home.now_s))
        case "late":
            assert home.inviter.deadline_s == home.now_s + RUN_S
            home.do(home.inviter.tick(home.now_s + RUN_S))
        case "unreadable":
            home.do(home.inviter.unreadable(run, home.now_s))
        case _:
            home.receive(run, hello)
    assert run in home.closed
    assert home.inviter.tries_left == N_TRIES
    home.now_s += RUN_S
    guest = Guest(now_s=home.now_s)
    run_pairing(home, guest)
    assert isinstance(guest.outcome, Joined)


@pytest.mark.parametrize("how", ["lost", "late"])
def test_who_is_admitted_and_goes_without_a_word_is_in(how: str) -> None:
    home, guest = Home(), Guest()
    run = home.connect()
    for _ in range(2):
        for message in guest.take():
            for answer in home.receive(run, message):
                if not isinstance(answer, Welcome):
                    guest.receive(answer)
    assert home.inviter.cancel() == []  # too late
    later_s = home.now_s + RUN_S
    home.do(home.inviter.lost(run, home.now_s) if how == "lost" else home.inviter.tick(later_s))
    assert home.outcome == Invited(guest.identity.id, "pi", Role.HELPER, acknowledged=False)
    guest.do(guest.joiner.lost() if how == "lost" else guest.joiner.tick(later_s + STEP_S))
    assert isinstance(guest.outcome, PairingError)


def test_a_home_that_cannot_take_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    home, guest = Home(), Guest()

    def refuse(actions: object) -> None:
        do(home.inviter.not_admitted("the roster is full."))

    run = home.connect()
    for message in guest.take():
        for answer in home.receive(run, message):
            guest.receive(answer)
    (confirm,) = guest.take()
    do = home.do
    monkeypatch.setattr(home, "do", refuse)
    home.inviter.received(run, confirm, home.now_s)
    refuse(None)
    assert "could not be admitted: the roster is full" in str(home.outcome)
    guest.receive(home.sent[run][-1])
    assert "cannot take this device" in str(guest.outcome)


@pytest.mark.parametrize("why", list(Why))
def test_each_refusal_is_a_sentence(why: Why) -> None:
    guest = Guest()
    guest.receive(Refuse(why, 1))
    assert isinstance(guest.outcome, PairingError)
    assert str(guest.outcome).endswith(".")
    assert guest.joiner.received(Done(), 0) == guest.joiner.cancel() == guest.joiner.lost() == []


def test_a_joiner_waits_only_so_long() -> None:
    guest = Guest()
    assert guest.joiner.deadline_s == STEP_S
    guest.do(guest.joiner.tick(STEP_S))
    assert "did not answer" in str(guest.outcome)


# Whatever the network does

steps = st.lists(
    st.tuples(
        st.sampled_from(["deliver", "deliver", "deliver", "drop", "twice", "swap", "mangle", "tick", "lost", "dial"]),
        st.integers(0, 5),
        st.integers(0, 255),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps, st.lists(st.sampled_from([CODE, CODE, OTHER_CODE]), min_size=1, max_size=4))
def test_nobody_without_the_code_is_ever_in(
    monkeypatch: pytest.MonkeyPatch, happenings: list[tuple[str, int, int]], codes: list[Code]
) -> None:
    """Several joiners at once, over a network that loses, doubles, reorders and changes messages."""
    fast_pake(monkeypatch)
    home = Home()
    guests = [Guest(code, who=number + 1, seed=number) for number, code in enumerate(codes)]
    network = Network(home, guests)
    for kind, which, value in happenings:
        network.happen(kind, which, value)
    network.settle()
    knowing = {guest.identity.id for guest, code in zip(guests, codes, strict=True) if code == CODE}
    assert set(home.admitted) <= knowing
    assert len(home.admitted) <= 1
    for guest in guests:
        if isinstance(guest.outcome, Joined):
            assert home.admitted == [guest.identity.id]
            assert guest.outcome.role is Role.HELPER
            assert guest.outcome.roster.home == home.roster.home
    if isinstance(home.outcome, Invited):
        assert home.admitted == [home.outcome.device]

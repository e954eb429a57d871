"""An inviter and a joiner against those who should not get in."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.cluster.pairing.home import CODE, OTHER_CODE, Guest, Home, fast_pake, run_pairing
from tests.unit.cluster.roster.people import person
from tpid.cluster.pairing.code import Code
from tpid.cluster.pairing.confirmation import Transcript, joiners_mac
from tpid.cluster.pairing.inviter import N_TRIES
from tpid.cluster.pairing.messages import (
    Answer,
    Confirm,
    Done,
    Hello,
    PairingMessage,
    Refuse,
    Welcome,
    Why,
)
from tpid.cluster.pairing.pake import begin, finish
from tpid.cluster.roster.roster import admit
from tpid.device import Role
from tpid.errors import PairingBusyError, PairingError


def test_a_proxy_in_between_gets_nowhere() -> None:
    """Its certificate is what the joiner sees, whether it passes everything on or puts its own in."""
    proxy = person(7)

    def own_certificate(message: PairingMessage) -> PairingMessage:
        return replace(message, certificate=proxy.certificate) if isinstance(message, Hello) else message

    def nothing(message: PairingMessage) -> PairingMessage:
        return message

    for alter in (nothing, own_certificate):
        home, guest = Home(), Guest(inviter_certificate=proxy.certificate)
        run_pairing(home, guest, alter)
        assert isinstance(guest.outcome, PairingError)
        assert not home.admitted
        assert home.inviter.tries_left == N_TRIES - 1
    # With the inviter's certificate before the joiner's eyes, but another for itself.
    home, guest = Home(), Guest()
    run_pairing(home, guest, own_certificate)
    assert isinstance(guest.outcome, PairingError)
    assert not home.admitted


@pytest.mark.parametrize(
    "change",
    [
        lambda answer: replace(answer, role=Role.USER),
        lambda answer: replace(answer, joiner_name="other"),
        lambda answer: replace(answer, inviter_name="other"),
        lambda answer: replace(answer, home=bytes(32)),
    ],
)
def test_what_was_decided_cannot_be_changed_on_the_way(change: Callable[[Answer], Answer]) -> None:
    home, guest = Home(), Guest()
    run_pairing(home, guest, lambda message: change(message) if isinstance(message, Answer) else message)
    assert isinstance(guest.outcome, PairingError)
    assert not home.admitted


def test_who_plays_the_inviter_has_one_guess_and_cannot_try_others_afterwards() -> None:
    """It keeps its own secret and all that was said, and tries every code on it, the right one as well."""
    guest = Guest()
    (hello,) = guest.take()
    assert isinstance(hello, Hello)

    def key(code: Code) -> bytes:
        """Of the code, with the secret of that one run."""
        return finish(begin(code, **as_inviter()), hello.element)

    def as_inviter() -> Any:
        entropy = random.Random(5).randbytes
        return {"inviter": person(0).id, "joiner": guest.identity.id, "invites": True, "entropy": entropy}

    played = begin(OTHER_CODE, **as_inviter())
    answer = Answer(Home().roster.home, Role.USER, "laptop", "pi", played.element)
    guest.receive(answer)
    (confirm,) = guest.take()
    assert isinstance(confirm, Confirm)
    transcript = Transcript(
        answer.home,
        person(0).id,
        guest.identity.id,
        answer.role,
        "laptop",
        "pi",
        hello.element,
        played.element,
    )
    for code in (CODE, OTHER_CODE, Code("abacus-zodiac-00000")):
        assert joiners_mac(key(code), transcript) != confirm.mac
    # With the right guess it would have known.
    lucky = Guest(seed=2)
    (hello,) = lucky.take()
    assert isinstance(hello, Hello)
    right = replace(answer, element=begin(CODE, **as_inviter()).element)
    lucky.receive(right)
    (seen,) = lucky.take()
    assert isinstance(seen, Confirm)
    transcript = replace(transcript, joiner_element=hello.element, inviter_element=right.element)
    assert joiners_mac(key(CODE), transcript) == seen.mac
    guest.receive(Welcome(bytes(32), answer.home, ()))
    assert isinstance(guest.outcome, PairingError)
    assert "does not know the code" in str(guest.outcome)


def test_who_says_that_it_is_busy_gets_no_second_guess() -> None:
    guest = Guest()
    guest.receive(Refuse(Why.BUSY))
    assert isinstance(guest.outcome, PairingBusyError)  # nothing was proven yet: it may be asked again
    guest = Guest()
    played = begin(
        OTHER_CODE, inviter=person(0).id, joiner=guest.identity.id, invites=True, entropy=random.Random(5).randbytes
    )
    guest.receive(Answer(Home().roster.home, Role.USER, "laptop", "pi", played.element))
    guest.receive(Refuse(Why.BUSY))  # once it holds the CONFIRM, which tells whether its guess was right
    assert isinstance(guest.outcome, PairingError)
    assert not isinstance(guest.outcome, PairingBusyError)


def test_what_was_recorded_opens_no_other_invitation() -> None:
    said: list[PairingMessage] = []

    def record(message: PairingMessage) -> PairingMessage:
        said.append(message)
        return message

    run_pairing(Home(seed=1), Guest(), record)
    home = Home(seed=2)  # the same code again
    run = home.connect()
    for message in said:
        if isinstance(message, Hello | Confirm | Done):
            home.receive(run, message)
    assert not home.admitted
    assert home.inviter.tries_left == N_TRIES - 1
    # Nor does the other side's part make a joiner believe it.
    guest = Guest(seed=9)
    for message in said:
        if isinstance(message, Answer | Welcome):
            guest.receive(message)
    assert isinstance(guest.outcome, PairingError)


def test_its_own_words_sent_back_let_nobody_in() -> None:
    guest = Guest()
    (hello,) = guest.take()
    assert isinstance(hello, Hello)
    guest.receive(Answer(Home().roster.home, Role.USER, "laptop", "pi", hello.element))
    if guest.outcome is None:
        (confirm,) = guest.take()
        assert isinstance(confirm, Confirm)
        guest.receive(Welcome(confirm.mac, Home().roster.home, ()))
    assert isinstance(guest.outcome, PairingError)


def test_a_certificate_of_somebody_else_is_refused_even_with_the_code() -> None:
    home, guest = Home(), Guest()

    def signed_by_another(message: PairingMessage) -> PairingMessage:
        return replace(message, signature=person(5).sign(b"x")) if isinstance(message, Confirm) else message

    run_pairing(home, guest, signed_by_another)
    assert isinstance(guest.outcome, PairingError)
    assert not home.admitted


@pytest.mark.parametrize("element", [bytes(32), b"\x01" + bytes(31), b"\xff" * 32, b"\x02" * 32])
def test_elements_that_are_none_are_refused(element: bytes) -> None:
    """Among them those of small order, whose key everybody knows."""
    home = Home()
    run = home.connect()
    assert home.receive(run, Hello(person(1).certificate, "pi", element)) == [Refuse(Why.BROKEN, N_TRIES)]
    guest = Guest()
    guest.receive(Answer(home.roster.home, Role.USER, "laptop", "pi", element))
    assert isinstance(guest.outcome, PairingError)


def test_a_thousand_guesses_get_in_with_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the person invites again each time that an invitation has ended."""
    fast_pake(monkeypatch)
    home, n_homes = Home(), 1
    for guess in range(1000):
        if home.inviter.has_ended:
            home, n_homes = Home(), n_homes + 1
        run_pairing(home, Guest(Code(f"walnut-canyon-{guess:05}"), who=2))
        assert not home.admitted
    assert n_homes == 334


def test_a_thousand_guesses_at_one_invitation_are_three() -> None:
    home = Home()
    (hello,) = Guest(OTHER_CODE).take()
    answers = 0
    for guess in range(1000):
        run = home.connect()
        if run not in home.closed:
            answers += len(home.receive(run, hello))
            home.receive(run, Confirm(guess.to_bytes(32, "big"), bytes(64)))
    assert answers == 3
    assert isinstance(home.outcome, PairingError)


def test_a_welcome_must_hold_the_home_and_this_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who knows the code and breaks the rules leaves nobody with half a home."""
    home = Home()
    other_role = admit(home.roster, home.identity, certificate=person(1).certificate, name="pi", role=Role.USER)
    chains = [
        [],
        home.roster.statements,  # without the joiner
        other_role.statements,
        [statement for statement in other_role.statements if statement not in home.roster.statements],
    ]
    for chain in chains:
        home, guest = Home(), Guest()
        monkeypatch.setattr(home, "chain", lambda _, chain=chain: chain)
        run_pairing(home, guest)
        assert isinstance(guest.outcome, PairingError)
        assert "does not pair as this one does" in str(guest.outcome)

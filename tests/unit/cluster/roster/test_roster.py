import random
from collections.abc import Callable
from dataclasses import replace
from functools import reduce

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.cluster.roster.people import person
from tpid.cluster.identity.identity import Identity
from tpid.cluster.roster import roster as roster_module
from tpid.cluster.roster.roster import Roster, admit, found, merged, received, revoke
from tpid.cluster.roster.statement import (
    Admission,
    Revocation,
    Statement,
    home_of,
    key_of,
    sign_admission,
    sign_revocation,
)
from tpid.device import DeviceId, Role
from tpid.errors import RosterError

N_PEOPLE = 6


def with_member(roster: Roster, by: int, who: int, role: Role = Role.USER, name: str = "") -> Roster:
    return admit(roster, person(by), certificate=person(who).certificate, name=name or f"device{who}", role=role)


def names(roster: Roster) -> set[str]:
    return {member.name for member in roster.members.values()}


@pytest.fixture
def home() -> Roster:
    """0 founded it, with a second user 1 and a helper 2."""
    roster = found(person(0), "device0")
    return with_member(with_member(roster, 0, 1), 0, 2, Role.HELPER)


def test_a_home_begins_with_its_founder_as_a_user() -> None:
    roster = found(person(0), "laptop")
    member = roster.members[person(0).id]
    assert (member.name, member.role, member.certificate) == ("laptop", Role.USER, person(0).certificate)
    assert roster.home == home_of(person(0).id) != home_of(person(1).id)


def test_users_admit_others(home: Roster) -> None:
    further = with_member(home, 1, 3, Role.HELPER)
    assert names(further) == {"device0", "device1", "device2", "device3"}
    assert further.members[person(3).id].role is Role.HELPER
    assert person(3).certificate in further.certificates


@pytest.mark.parametrize(
    "change", [lambda home: with_member(home, 2, 3), lambda home: revoke(home, person(2), person(1).id)]
)
def test_helpers_and_strangers_change_nothing(home: Roster, change: Callable[[Roster], Roster]) -> None:
    with pytest.raises(RosterError, match="Only devices of the role user"):
        change(home)


def forged(home: Roster) -> list[Statement]:
    """What must not enter: each is well formed."""
    certificate = person(3).certificate

    def admission(by: Identity, sign_as: Identity, role: Role = Role.USER) -> Admission:
        return sign_admission(home.home, by.id, sign_as.sign, certificate=certificate, name="x", role=role)

    sound = admission(person(0), person(0))
    helper, stranger, user = person(2), person(4), person(1)
    return [
        admission(helper, helper),  # by a helper
        admission(stranger, stranger),  # by a stranger
        admission(person(3), person(3)),  # by itself
        admission(user, helper),  # in another's name
        replace(sound, name="y"),  # changed after it was signed
        replace(sound, role=Role.HELPER),
        replace(sound, certificate=person(4).certificate),
        replace(sound, certificate=b"no certificate"),
        sign_admission(home.home, person(0).id, person(0).sign, certificate=b"none", name="x", role=Role.USER),
        sign_admission(
            home_of(stranger.id), person(0).id, person(0).sign, certificate=certificate, name="x", role=Role.USER
        ),  # for another home
        sign_revocation(home.home, helper.id, helper.sign, user.id, set()),
        sign_revocation(home.home, stranger.id, stranger.sign, user.id, set()),
        sign_revocation(home.home, person(0).id, stranger.sign, user.id, set()),
        # a founder of another home within this one
        sign_admission(
            home.home, stranger.id, stranger.sign, certificate=stranger.certificate, name="x", role=Role.USER
        ),
    ]


@pytest.mark.parametrize("which", range(14))
def test_what_no_user_of_this_home_has_signed_does_not_enter(home: Roster, which: int) -> None:
    statements = forged(home)
    assert len(statements) == 14
    assert received(home, [statements[which]]) is home
    assert received(home, statements) is home


def test_a_device_can_leave_by_itself_and_the_others_stay(home: Roster) -> None:
    without = revoke(home, person(2), person(2).id)
    assert names(without) == {"device0", "device1"}
    assert names(revoke(without, person(0), person(0).id)) == {"device1"}


def test_who_was_revoked_cannot_come_back_with_that_key(home: Roster) -> None:
    without = revoke(home, person(0), person(2).id)
    with pytest.raises(RosterError, match="for ever"):
        with_member(without, 1, 2)
    with pytest.raises(RosterError, match="no such device"):
        revoke(without, person(0), person(2).id)
    again = sign_admission(
        home.home, person(0).id, person(0).sign, certificate=person(2).certificate, name="x", role=Role.USER
    )
    assert person(2).id not in received(without, [again]).members


def test_the_home_outlives_its_founder(home: Roster) -> None:
    home = with_member(home, 1, 3)
    without = revoke(home, person(1), person(0).id)
    assert names(without) == {"device1", "device2", "device3"}
    assert names(with_member(without, 3, 4)) == {"device1", "device2", "device3", "device4"}


def test_what_a_thief_signs_counts_nowhere_once_the_theft_is_known(home: Roster) -> None:
    """The thief of device 1 signs with any date, lets his accomplice sign, and even revokes his own device again."""
    thief, accomplice = person(1), person(4)
    own = with_member(home, 1, 4)  # he admits the accomplice, and it a third
    own = with_member(own, 4, 5)
    known_here = revoke(home, person(0), thief.id)
    assert names(known_here) == {"device0", "device2"}
    vouching = {key_of(statement) for statement in own.statements}
    more = [sign_revocation(home.home, one.id, one.sign, thief.id, vouching) for one in (thief, accomplice, person(5))]
    after = received(known_here, [*own.statements, *more])
    assert names(after) == {"device0", "device2"}


def test_admissions_that_the_revoker_knew_stay_and_unseen_ones_fall(home: Roster) -> None:
    home = with_member(home, 1, 3)
    unseen = with_member(home, 1, 4)
    without = merged(revoke(home, person(0), person(1).id), unseen)
    assert names(without) == {"device0", "device2", "device3"}


def test_two_that_revoke_each_other_are_both_out(home: Roster) -> None:
    both = merged(revoke(home, person(0), person(1).id), revoke(home, person(1), person(0).id))
    assert names(both) == {"device2"}


def test_two_that_revoke_one_at_the_same_time_keep_what_both_knew(home: Roster) -> None:
    home = with_member(with_member(home, 1, 3), 1, 4)
    first = revoke(home, person(0), person(1).id)
    second = revoke(with_member(home, 1, 5), person(3), person(1).id)
    assert names(merged(first, second)) == {"device0", "device2", "device3", "device4"}


def test_a_helper_can_become_a_user_and_not_back(home: Roster) -> None:
    promoted = with_member(home, 0, 2, Role.USER)
    assert promoted.members[person(2).id].role is Role.USER
    assert with_member(promoted, 2, 3).members[person(3).id].role is Role.USER
    assert with_member(promoted, 0, 2, Role.USER) is promoted
    with pytest.raises(RosterError, match="Remove it first"):
        with_member(promoted, 0, 2, Role.HELPER)


def test_names_are_distinct_whoever_admits(home: Roster) -> None:
    first = with_member(home, 0, 3, name="pi")
    second = with_member(with_member(home, 1, 4, name="Pi"), 1, 5, name="pi-2")
    both = merged(first, second)
    members = {member.id: member.name for member in both.members.values()}
    low, high = sorted([person(3).id, person(4).id])
    assert members[low].casefold() == "pi"
    assert members[high].casefold() == "pi-3"
    assert members[person(5).id] == "pi-2"


def test_rosters_of_two_homes_do_not_merge(home: Roster) -> None:
    with pytest.raises(RosterError, match="two homes"):
        merged(home, found(person(1), "other"))


def test_a_roster_has_an_end(home: Roster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster_module, "MAX_STATEMENTS", 3)
    with pytest.raises(RosterError, match="would have 4 statements"):
        with_member(home, 0, 3)
    monkeypatch.undo()
    full = with_member(home, 0, 3)
    monkeypatch.setattr(roster_module, "MAX_STATEMENTS", 3)
    with pytest.raises(RosterError, match="would have 4 statements"):
        received(home, full.statements)


@pytest.mark.parametrize("name", ["", " a", "a ", "a\n", "e\u0301", "\x1b[2J", "a" * 256])
def test_a_name_that_cannot_be_shown_is_refused(home: Roster, name: str) -> None:
    with pytest.raises(RosterError, match="cannot be the name"):
        admit(home, person(0), certificate=person(3).certificate, name=name, role=Role.USER)


# Any order gives the same

changes = st.lists(
    st.tuples(
        st.integers(0, 2),  # whose copy of the roster
        st.sampled_from(["user", "helper", "revoke", "tell"]),
        st.integers(0, N_PEOPLE - 1),  # who does it
        st.integers(0, N_PEOPLE - 1),  # to whom
    ),
    max_size=14,
)


def replicas(history: list[tuple[int, str, int, int]]) -> list[Roster]:
    """Three copies of one home's roster that have lived apart."""
    copies = [found(person(0), "device0")] * 3
    copies = [with_member(copy, 0, 1) for copy in copies]
    # The same statement in all of them: a signature is new each time.
    copies = [copies[0]] * 3
    for copy, change, who, whom in history:
        try:
            if change == "tell":
                other = (copy + 1 + who) % 3
                copies[other] = received(copies[other], copies[copy].statements)
            elif change == "revoke":
                copies[copy] = revoke(copies[copy], person(who), person(whom).id)
            else:
                copies[copy] = with_member(copies[copy], who, whom, Role(change))
        except RosterError:
            pass
    return copies


@settings(max_examples=60, deadline=None)
@given(changes, st.permutations(range(3)))
def test_merging_is_commutative_associative_and_idempotent(
    history: list[tuple[int, str, int, int]], order: list[int]
) -> None:
    a, b, c = replicas(history)
    everything = merged(merged(a, b), c)
    assert merged(a, merged(b, c)) == everything
    assert merged(a, b) == merged(b, a)
    assert merged(everything, everything) == everything == merged(everything, a)
    assert reduce(merged, [(a, b, c)[index] for index in order]) == everything
    assert reduce(merged, [(a, b, c)[index] for index in order]).members == everything.members


@settings(max_examples=60, deadline=None)
@given(changes, st.randoms(use_true_random=False))
def test_what_is_told_in_any_order_gives_the_same_members(
    history: list[tuple[int, str, int, int]], chance: random.Random
) -> None:
    everything = reduce(merged, replicas(history))
    told = list(everything.statements)
    chance.shuffle(told)
    assert received(Roster(everything.home), told).members == everything.members


def members_by_the_rule(statements: tuple[Statement, ...]) -> set[DeviceId]:
    """The rule read aloud, over and over until nothing more counts."""
    revocations = [statement for statement in statements if isinstance(statement, Revocation)]
    admissions = [statement for statement in statements if isinstance(statement, Admission)]
    counting: list[Admission] = []
    for _ in admissions:
        counting = [
            admission
            for admission in admissions
            if home_of(admission.signer) == admission.home == home_of(admission.subject)
            or (
                any(other.subject == admission.signer and other.role is Role.USER for other in counting)
                and all(key_of(admission) in one.kept for one in revocations if one.subject == admission.signer)
            )
        ]
    return {admission.subject for admission in counting} - {one.subject for one in revocations}


@settings(max_examples=60, deadline=None)
@given(changes)
def test_the_members_are_those_of_the_rule(history: list[tuple[int, str, int, int]]) -> None:
    everything = reduce(merged, replicas(history))
    assert set(everything.members) == members_by_the_rule(everything.statements)
    assert len(names(everything)) == len(everything.members)

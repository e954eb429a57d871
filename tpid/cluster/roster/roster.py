"""The roster of a home: a set of signed statements that only grows, and who belongs to the home by them.

Two rosters merge into their union, so it does not matter who hears what in which order. What the statements mean is
computed from the set alone:

- The founder's own admission counts: the home's id names the founder. An admission counts if its signer has one that
  counts, as a user.
- A revocation counts if its signer ever had such a chain of admissions, even where it was revoked since: whom one user
  device has put out stays out. So two that put out each other are both out; whoever is left goes on.
- Of what a revoked device has signed, only those admissions count that **every** revocation of it keeps. A thief has
  its key for ever and can sign with any date; what he admits when the home knows of the theft counts nowhere. And what
  it had admitted before, by the knowledge of whoever revokes it, need not be paired again.
- A device may revoke itself: it leaves.

Statements by others than such signers, or with wrong signatures, never enter a roster.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from tpid.cluster.identity.certificate import read_certificate
from tpid.cluster.identity.identity import Identity
from tpid.cluster.octets import is_name
from tpid.cluster.roster.names import distinct_names
from tpid.cluster.roster.statement import (
    MAX_KEPT,
    Admission,
    HomeId,
    Key,
    Revocation,
    Statement,
    home_of,
    is_founders,
    is_genuine,
    key_of,
    sign_admission,
    sign_revocation,
)
from tpid.device import DeviceId, Role
from tpid.errors import RemoteProtocolError, RosterError

MAX_STATEMENTS: Final = 1024  # a home has some ten devices, and replaces some


@dataclass(frozen=True, slots=True)
class Member:
    id: DeviceId
    name: str  # no other member has it
    role: Role
    certificate: bytes


@dataclass(frozen=True, slots=True)
class Roster:
    """Made by the functions of this file, which keep out what must not be in it; by `Roster(home)` an empty one."""

    home: HomeId
    statements: tuple[Statement, ...] = ()  # ascending by key
    keys: frozenset[Key] = field(default=frozenset(), repr=False)
    members: Mapping[DeviceId, Member] = field(default_factory=dict, repr=False, compare=False)

    @property
    def certificates(self) -> list[bytes]:
        """Of all members: whom TLS lets in."""
        return [member.certificate for member in self.members.values()]

    def is_revoked(self, device: DeviceId) -> bool:
        return any(isinstance(statement, Revocation) and statement.subject == device for statement in self.statements)


def found(identity: Identity, name: str) -> Roster:
    """The roster of a new home with its founder alone, as a user. Raises RosterError for a name that is none."""
    _check_name(name)
    home = home_of(identity.id)
    own = sign_admission(home, identity.id, identity.sign, certificate=identity.certificate, name=name, role=Role.USER)
    return _roster(home, {key_of(own): own})


def admit(roster: Roster, identity: Identity, *, certificate: bytes, name: str, role: Role) -> Roster:
    """`identity`'s device takes another in. The same roster where it is in already.

    Raises RosterError: only user devices may, a device that was put out needs a new key, a user does not become a
    helper, and there is a limit.
    """
    _check_may(roster, identity)
    _check_name(name)
    try:
        read_certificate(certificate)
    except RemoteProtocolError as error:
        raise RosterError(f"The device {name} cannot be admitted: {error.message}") from error
    admission = sign_admission(roster.home, identity.id, identity.sign, certificate=certificate, name=name, role=role)
    member = roster.members.get(admission.subject)
    if roster.is_revoked(admission.subject):
        raise RosterError(
            f"The device {name} was removed from this home for ever.",
            hint="Run `tpictl leave` on it: it then has a new key and can be paired.",
        )
    if member is not None and member.role is role:
        return roster
    if member is not None and member.role is Role.USER:
        raise RosterError(
            f"The device {member.name} is in this home as a user's.",
            hint=f"Remove it first: `tpictl devices remove {member.name}`.",
        )
    return _with(roster, admission)


def revoke(roster: Roster, identity: Identity, subject: DeviceId) -> Roster:
    """`identity`'s device puts a member out for ever; itself, if it is told so. Raises RosterError."""
    if subject not in roster.members:
        raise RosterError("There is no such device in this home.", hint="`tpictl devices` lists them.")
    if subject != identity.id:
        _check_may(roster, identity)
    counting = _counting(roster.statements)
    kept = {key for key, admission in counting.items() if admission.signer == subject != admission.subject}
    if len(kept) > MAX_KEPT:
        raise RosterError(f"The device has admitted {len(kept)} others; {MAX_KEPT} can be kept without it.")
    return _with(roster, sign_revocation(roster.home, identity.id, identity.sign, subject, kept))


def merged(first: Roster, second: Roster) -> Roster:
    """The union. Raises RosterError for rosters of two homes, and where there is too much."""
    if first.home != second.home:
        raise RosterError("The rosters are of two homes.")
    both = _by_key(first.statements)
    for key, statement in _by_key(second.statements).items():
        # One text may have been signed twice; all keep the same of both.
        both[key] = min(both.get(key, statement), statement, key=lambda one: one.signature)
    return _roster(first.home, both)


def received(roster: Roster, statements: Iterable[Statement]) -> Roster:
    """The roster with what a peer has told; what is not by the home's own devices is left out.

    Raises RosterError where there is too much.
    """
    known = _by_key(roster.statements)
    new = {key: statement for statement in statements if (key := key_of(statement)) not in known}
    new = {key: statement for key, statement in new.items() if statement.home == roster.home}
    if not new:
        return roster
    genuine = _reachable(known, new)
    return _roster(roster.home, {**known, **genuine}) if genuine else roster


def _reachable(known: Mapping[Key, Statement], new: Mapping[Key, Statement]) -> dict[Key, Statement]:
    """Those of `new` that a chain of admissions leads to, from the founder on; revocations are not looked at."""
    by_signer: dict[DeviceId, list[tuple[Key, Statement]]] = defaultdict(list)
    founders: list[Admission] = []
    for key, statement in {**known, **new}.items():
        by_signer[statement.signer].append((key, statement))
        if isinstance(statement, Admission) and is_founders(statement):
            founders.append(statement)
    found_here: dict[Key, Statement] = {}
    certificates = {founder.subject: founder.certificate for founder in founders}
    users = set(certificates)
    waiting = list(certificates)
    while waiting:
        signer = waiting.pop()
        for key, statement in by_signer[signer]:
            by_user = signer in users
            if not by_user and not (isinstance(statement, Revocation) and statement.subject == signer):
                continue
            if key in new and key not in found_here:
                if not is_genuine(statement, certificates[signer]):
                    continue
                found_here[key] = statement
            if isinstance(statement, Admission):
                subject = statement.subject
                more = subject not in certificates or (statement.role is Role.USER and subject not in users)
                certificates[subject] = statement.certificate
                if statement.role is Role.USER:
                    users.add(subject)
                if more:
                    waiting.append(subject)
    return found_here


def _counting(statements: Iterable[Statement]) -> dict[Key, Admission]:
    """The admissions that count."""
    by_signer: dict[DeviceId, list[tuple[Key, Admission]]] = defaultdict(list)
    kept: dict[DeviceId, set[Key]] = {}
    counting: dict[Key, Admission] = {}
    for statement in statements:
        if isinstance(statement, Revocation):
            those = set(statement.kept)
            kept[statement.subject] = kept[statement.subject] & those if statement.subject in kept else those
        elif is_founders(statement):
            counting[key_of(statement)] = statement
        else:
            by_signer[statement.signer].append((key_of(statement), statement))
    users = {founder.subject for founder in counting.values()}
    waiting = list(users)
    while waiting:
        signer = waiting.pop()
        for key, admission in by_signer[signer]:
            if signer in kept and key not in kept[signer]:
                continue
            counting[key] = admission
            if admission.role is Role.USER and admission.subject not in users:
                users.add(admission.subject)
                waiting.append(admission.subject)
    return counting


def _members(statements: Iterable[Statement]) -> dict[DeviceId, Member]:
    """By id, ascending."""
    statements = list(statements)
    revoked = {statement.subject for statement in statements if isinstance(statement, Revocation)}
    admissions: dict[DeviceId, list[tuple[Key, Admission]]] = defaultdict(list)
    for key, admission in _counting(statements).items():
        if admission.subject not in revoked:
            admissions[admission.subject].append((key, admission))
    names = distinct_names({device: min(those)[1].name for device, those in admissions.items()})
    return {
        device: Member(
            device,
            names[device],
            Role.USER if any(admission.role is Role.USER for _, admission in those) else Role.HELPER,
            those[0][1].certificate,
        )
        for device, those in sorted(admissions.items())
    }


def _with(roster: Roster, statement: Statement) -> Roster:
    return _roster(roster.home, _by_key(roster.statements) | {key_of(statement): statement})


def _roster(home: HomeId, by_key: Mapping[Key, Statement]) -> Roster:
    if len(by_key) > MAX_STATEMENTS:
        raise RosterError(
            f"The roster of this home would have {len(by_key)} statements; {MAX_STATEMENTS} are possible.",
            hint="Found a new home: `tpictl leave` on each device, then pair them.",
        )
    statements = tuple(by_key[key] for key in sorted(by_key))
    return Roster(home, statements, frozenset(by_key), _members(statements))


def _by_key(statements: Iterable[Statement]) -> dict[Key, Statement]:
    return {key_of(statement): statement for statement in statements}


def _check_may(roster: Roster, identity: Identity) -> None:
    member = roster.members.get(identity.id)
    if member is None or member.role is not Role.USER:
        raise RosterError(
            "Only devices of the role user may change who belongs to this home.",
            hint="Run this on a device that was paired as one.",
        )


def _check_name(name: str) -> None:
    if not is_name(name):
        raise RosterError(f"{name!r} cannot be the name of a device.", hint="Choose one of up to 255 letters.")

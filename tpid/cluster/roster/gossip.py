"""What two devices tell each other of the roster: the keys that each has, then the statements that the other lacks.

    keys        home 32 | number 2 | keys 32 each, ascending
    statements  home 32 | number 2 | each: length 2, a statement

Each side sends its keys when a connection opens, answers the other's by what is missing there, and passes on what is
new to it. All of it goes to members only, over TLS: the caller sees to that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tpid.cluster.octets import Octets
from tpid.cluster.roster.roster import MAX_STATEMENTS, Roster
from tpid.cluster.roster.statement import (
    ID_BYTES,
    MAX_STATEMENT_BYTES,
    Admission,
    HomeId,
    Key,
    Revocation,
    Statement,
    decode_statement,
    encode_statement,
    is_founders,
    key_of,
)
from tpid.device import DeviceId, Role
from tpid.errors import RemoteProtocolError

MAX_MESSAGE_BYTES: Final = 64 * 1024
_HEAD_BYTES: Final = ID_BYTES + 2


def missing(roster: Roster, keys: Iterable[Key]) -> list[Statement]:
    """What a peer with these keys lacks. Who admits comes before whom it admits: any beginning makes sense alone."""
    there = frozenset(keys)
    return [statement for statement in in_order(roster) if key_of(statement) not in there]


def in_order(roster: Roster) -> list[Statement]:
    """Admissions by their distance from the founder, revocations last."""
    rest = [statement for statement in roster.statements if isinstance(statement, Admission)]
    ordered: list[Statement] = []
    admitted: set[DeviceId] = set()
    while now := [admission for admission in rest if admission.signer in admitted or is_founders(admission)]:
        ordered += now
        admitted |= {admission.subject for admission in now}
        done = frozenset(now)
        rest = [admission for admission in rest if admission not in done]
    return ordered + [statement for statement in roster.statements if isinstance(statement, Revocation)]


def chain_to(roster: Roster, device: DeviceId) -> list[Statement]:
    """The admissions by which a member belongs to the home, from the founder's own on; no revocations."""
    into: dict[DeviceId, Admission] = {}
    for statement in in_order(roster):
        if isinstance(statement, Admission):
            first = into.setdefault(statement.subject, statement)
            if first.role is Role.HELPER and statement.role is Role.USER:  # it may have admitted others since
                into[statement.subject] = statement
    chain: list[Statement] = []
    while (admission := into.get(device)) is not None and admission not in chain:
        chain.append(admission)
        device = admission.signer
    return chain[::-1]


def encode_keys(roster: Roster) -> bytes:
    return roster.home + len(roster.keys).to_bytes(2, "big") + b"".join(sorted(roster.keys))


def decode_keys(data: bytes) -> tuple[HomeId, frozenset[Key]]:
    """Total: raises RemoteProtocolError."""
    octets = Octets(data, what="A list of the roster's keys")
    home = HomeId(octets.take(ID_BYTES))
    number = octets.number(2)
    if number > MAX_STATEMENTS:
        raise RemoteProtocolError(f"A list of the roster's keys has {number}; {MAX_STATEMENTS} are possible.")
    keys = octets.take(number * ID_BYTES)
    octets.end()
    return home, frozenset(Key(keys[start : start + ID_BYTES]) for start in range(0, len(keys), ID_BYTES))


def encode_statements(home: HomeId, statements: Iterable[Statement]) -> list[bytes]:
    """In as many messages as it takes, each no larger than MAX_MESSAGE_BYTES."""
    messages: list[list[bytes]] = []
    room_bytes = 0
    for statement in statements:
        encoded = encode_statement(statement)
        part = len(encoded).to_bytes(2, "big") + encoded
        if len(part) > room_bytes:
            messages.append([])
            room_bytes = MAX_MESSAGE_BYTES - _HEAD_BYTES
        messages[-1].append(part)
        room_bytes -= len(part)
    return [home + len(parts).to_bytes(2, "big") + b"".join(parts) for parts in messages]


def decode_statements(data: bytes) -> tuple[HomeId, list[Statement]]:
    """Total: raises RemoteProtocolError. Signatures are checked where the statements enter a roster."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise RemoteProtocolError(f"A message of {len(data)} bytes about the roster; {MAX_MESSAGE_BYTES} are allowed.")
    octets = Octets(data, what="A message about the roster")
    home = HomeId(octets.take(ID_BYTES))
    number = octets.number(2)
    if number > MAX_STATEMENTS:
        raise RemoteProtocolError(f"A message about the roster has {number} statements; {MAX_STATEMENTS} are possible.")
    statements = [decode_statement(octets.counted(2, at_most=MAX_STATEMENT_BYTES)) for _ in range(number)]
    octets.end()
    if any(statement.home != home for statement in statements):
        raise RemoteProtocolError("A message about the roster has a statement of another home.")
    return home, statements

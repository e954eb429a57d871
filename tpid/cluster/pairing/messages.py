"""The messages of a pairing, to bytes and back.

    "TP" | version 2 | kind 1 | length 4 | 0, 4 bytes | body

This is the prefix of all frames, with the body in the place of the header. Numbers are big endian; a name is its length
in one byte, then UTF-8.

kind  message  from     body
----  -------  -------  ----------------------------------------------------------------------------
64    HELLO    joiner   certificate: length 2, DER | name wanted | element 32
65    ANSWER   inviter  home 32 | role 1 | inviter's name | joiner's name | element 32
66    CONFIRM  joiner   mac 32 | signature 64
67    WELCOME  inviter  mac 32 | statements of the roster, as in gossip
68    DONE     joiner   nothing
69    REFUSE   either   why 1 | tries left 1
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias

from tpid.cluster.identity.certificate import MAX_CERTIFICATE_BYTES
from tpid.cluster.identity.identity import SIGNATURE_BYTES
from tpid.cluster.octets import Octets, name_field
from tpid.cluster.pairing.confirmation import MAC_BYTES
from tpid.cluster.pairing.pake import ELEMENT_BYTES
from tpid.cluster.roster.gossip import MAX_MESSAGE_BYTES, decode_statements, encode_statements
from tpid.cluster.roster.statement import ID_BYTES, ROLE_NUMBERS, ROLES, HomeId, Statement
from tpid.comm.messages import PROTOCOL_VERSION
from tpid.device import Role
from tpid.errors import LocalProtocolError, RemoteProtocolError, VersionMismatchError

MAX_BODY_BYTES: Final = MAC_BYTES + MAX_MESSAGE_BYTES

_PREFIX: Final = struct.Struct(">2sBBII")
_MAGIC: Final = b"TP"


class Why(IntEnum):
    """Reasons of a REFUSE."""

    NO_INVITATION = 1  # none is open, or none any more
    BUSY = 2  # another device is just pairing
    WRONG_CODE = 3
    BROKEN = 4  # a message that does not belong there
    CANCELLED = 5
    NOT_POSSIBLE = 6  # the roster does not allow it


_REASONS: Final = frozenset(why.value for why in Why)


@dataclass(frozen=True, slots=True)
class Hello:
    certificate: bytes
    name: str
    element: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    home: HomeId
    role: Role
    inviter_name: str
    joiner_name: str
    element: bytes


@dataclass(frozen=True, slots=True)
class Confirm:
    mac: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Welcome:
    mac: bytes
    home: HomeId
    statements: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Done:
    pass


@dataclass(frozen=True, slots=True)
class Refuse:
    why: Why
    tries_left: int = 0


PairingMessage: TypeAlias = Hello | Answer | Confirm | Welcome | Done | Refuse


def encode_pairing(message: PairingMessage) -> bytes:
    """Raises LocalProtocolError where a chain of admissions is longer than a message."""
    kind, body = _encode(message)
    return _PREFIX.pack(_MAGIC, PROTOCOL_VERSION, kind, len(body), 0) + body


def _encode(message: PairingMessage) -> tuple[int, bytes]:
    match message:
        case Hello(certificate, name, element):
            return 64, len(certificate).to_bytes(2, "big") + certificate + name_field(name) + element
        case Answer(home, role, inviter_name, joiner_name, element):
            names = name_field(inviter_name) + name_field(joiner_name)
            return 65, home + bytes([ROLE_NUMBERS[role]]) + names + element
        case Confirm(mac, signature):
            return 66, mac + signature
        case Welcome(mac, home, statements):
            parts = encode_statements(home, statements)
            if len(parts) > 1:
                raise LocalProtocolError(f"A welcome of {len(statements)} statements does not fit one message.")
            return 67, mac + (parts[0] if parts else home + bytes(2))
        case Done():
            return 68, b""
        case Refuse(why, tries_left):
            return 69, bytes([why, tries_left])


def _decode(kind: int, body: bytes) -> PairingMessage:
    octets = Octets(body, what="A pairing message")
    message: PairingMessage
    match kind:
        case 64:
            message = Hello(octets.counted(2, at_most=MAX_CERTIFICATE_BYTES), octets.name(), octets.take(ELEMENT_BYTES))
        case 65:
            home = HomeId(octets.take(ID_BYTES))
            role = ROLES.get(octets.number(1))
            if role is None:
                raise RemoteProtocolError("A pairing message gives a role that does not exist.")
            message = Answer(home, role, octets.name(), octets.name(), octets.take(ELEMENT_BYTES))
        case 66:
            message = Confirm(octets.take(MAC_BYTES), octets.take(SIGNATURE_BYTES))
        case 67:
            mac = octets.take(MAC_BYTES)
            home, statements = decode_statements(body[MAC_BYTES:])
            return Welcome(mac, home, tuple(statements))
        case 68:
            message = Done()
        case 69:
            number, tries_left = octets.number(1), octets.number(1)
            if number not in _REASONS:
                raise RemoteProtocolError("A pairing is refused for a reason that does not exist.")
            message = Refuse(Why(number), tries_left)
        case _:
            raise RemoteProtocolError(f"A message of kind {kind} does not belong to a pairing.")
    octets.end()
    return message


class PairingReader:
    """Turns what is received into messages, in whatever pieces it comes."""

    def __init__(self) -> None:
        self._received = bytearray()

    def feed(self, data: bytes) -> list[PairingMessage]:
        """Raises RemoteProtocolError, VersionMismatchError; the reader is of no use then. It never holds more than one
        message and `data`."""
        self._received += data
        messages: list[PairingMessage] = []
        while len(self._received) >= _PREFIX.size:
            magic, version, kind, body_bytes, payload_bytes = _PREFIX.unpack_from(self._received)
            if magic != _MAGIC:
                raise RemoteProtocolError("What came is no message of a pairing.")
            if version != PROTOCOL_VERSION:
                raise VersionMismatchError(
                    f"The other device speaks version {version} of the protocol, this one version {PROTOCOL_VERSION}.",
                    hint="Upgrade the older of both.",
                )
            if payload_bytes or body_bytes > MAX_BODY_BYTES:
                raise RemoteProtocolError(f"A pairing message of {body_bytes} and {payload_bytes} bytes is too large.")
            if len(self._received) < _PREFIX.size + body_bytes:
                break
            body = bytes(self._received[_PREFIX.size : _PREFIX.size + body_bytes])
            del self._received[: _PREFIX.size + body_bytes]
            messages.append(_decode(kind, body))
        return messages

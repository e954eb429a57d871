"""The first twelve bytes of a connection, in clear: which version, and what for. TLS follows at once.

    "TP" | version 1 byte | kind 1 byte | 0, 8 bytes

It is the prefix that frames have in every version: so a device of another version is told so, and can tell so.

kind  name     by        means
----  -------  --------  ----------------------------------------------------------------
8     MEMBER   dialler   TLS between two members of a home follows, then frames
9     PAIRING  dialler   TLS with a stranger follows, then the messages of a pairing
10    CLOSED   listener  instead of TLS: that is not possible here now; the end follows
11    UNITS    dialler   TLS between two members of a home follows, then units of packs
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

from tpid.comm.messages import PROTOCOL_VERSION
from tpid.errors import PairingError, RefusedError, RemoteProtocolError, TpidError, VersionMismatchError

OPENING_BYTES: Final = 12

_OPENING: Final = struct.Struct(">2sBBII")
_MAGIC: Final = b"TP"
_CLOSED: Final = 10


class Purpose(IntEnum):
    MEMBER = 8
    PAIRING = 9
    UNITS = 11


def encode_opening(purpose: Purpose) -> bytes:
    return _OPENING.pack(_MAGIC, PROTOCOL_VERSION, purpose, 0, 0)


def decode_opening(data: bytes, *, peer_address: str) -> Purpose:
    """What a dialler's first twelve bytes ask for. Raises VersionMismatchError, RemoteProtocolError."""
    kind = _kind(data, peer_address)
    for purpose in Purpose:
        if kind == purpose and data == encode_opening(purpose):
            return purpose
    raise RemoteProtocolError(f"The device at {peer_address} opens a connection for the unknown purpose {kind}.")


def closed() -> bytes:
    """The listener's answer where a purpose is not possible now, and to a dialler of another version."""
    return _OPENING.pack(_MAGIC, PROTOCOL_VERSION, _CLOSED, 0, 0)


def refusal_in(data: bytes, purpose: Purpose, *, peer_address: str) -> TpidError | None:
    """What a listener says by its first bytes, if these are not TLS; None where they may be. At most twelve count."""
    if not data or not _MAGIC.startswith(data[:2]):
        return None
    try:
        kind = _kind(data[:OPENING_BYTES], peer_address)
    except (VersionMismatchError, RemoteProtocolError) as error:
        return error
    if kind != _CLOSED:
        return RemoteProtocolError(f"The device at {peer_address} answers in clear.")
    if purpose is Purpose.PAIRING:
        return PairingError(
            f"The device at {peer_address} has no invitation open.", hint="Invite first: `tpictl invite` there."
        )
    return RefusedError(f"The device at {peer_address} has no home yet.", reason_code="no_home")


def _kind(data: bytes, peer_address: str) -> int:
    if len(data) < OPENING_BYTES or data[:2] != _MAGIC:
        raise RemoteProtocolError(f"What answers at {peer_address} is no tpid.")
    _, version, kind, _, _ = _OPENING.unpack_from(data)
    if version != PROTOCOL_VERSION:
        older = "that one" if version < PROTOCOL_VERSION else "this one"
        raise VersionMismatchError(
            f"The device at {peer_address} speaks version {version} of the protocol, "
            f"this one version {PROTOCOL_VERSION}.",
            hint=f"Upgrade tpid on {older}.",
        )
    return int(kind)

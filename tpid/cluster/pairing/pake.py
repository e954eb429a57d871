"""The proof of a code: SPAKE2 on Ed25519, by the package `spake2`. Nobody else knows which PAKE it is.

Each side sends one element. Both then have a key, the same if both knew the same code and both meant the same two
devices. Who took part learns from one run whether one guess was right, and nothing more; who listened learns nothing.
The sides must still show each other that their keys are equal: see `confirmation`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from spake2 import SPAKE2_A, SPAKE2_B
from spake2.ed25519_basic import NotOnCurve
from spake2.spake2 import SPAKEError

from tpid.cluster.pairing.code import Code, Entropy
from tpid.device import DeviceId
from tpid.errors import RemoteProtocolError

ELEMENT_BYTES: Final = 32

_FIELD: Final = 2**255 - 19  # each coordinate is below it; the package would take other ways to write one

_INVITER_SIDE: Final = b"A"  # before each element in the package's messages
_JOINER_SIDE: Final = b"B"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One side of one run; to be finished once."""

    element: bytes  # to be sent
    _spake: Any
    _peer_side: bytes


def begin(code: Code, *, inviter: DeviceId, joiner: DeviceId, invites: bool, entropy: Entropy) -> Exchange:
    """`invites` says which of the two this side is."""
    side = SPAKE2_A if invites else SPAKE2_B
    spake = side(code.encode("ascii"), idA=bytes.fromhex(inviter), idB=bytes.fromhex(joiner), entropy_f=entropy)
    return Exchange(spake.start()[1:], spake, _JOINER_SIDE if invites else _INVITER_SIDE)


def finish(exchange: Exchange, element: bytes) -> bytes:
    """The key, 32 bytes. Raises RemoteProtocolError where the peer's `element` is none."""
    if len(element) != ELEMENT_BYTES or int.from_bytes(element, "little") % 2**255 >= _FIELD:
        raise RemoteProtocolError("A pairing element is not written as one.")
    try:
        key: bytes = exchange._spake.finish(exchange._peer_side + element)
    except (SPAKEError, NotOnCurve, ValueError, AssertionError) as error:
        raise RemoteProtocolError(f"A pairing element is none: {type(error).__name__}.") from None
    return key

"""What both sides must have seen alike, and how each shows that its key is the same."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from tpid.cluster.octets import name_field
from tpid.cluster.roster.statement import ROLE_NUMBERS, HomeId
from tpid.device import DeviceId, Role

MAC_BYTES: Final = 32

_LABEL: Final = b"tpid pairing 2\0"


@dataclass(frozen=True, slots=True)
class Transcript:
    """All that a pairing decides. The ids are the hashes of the certificates: the joiner's view of the inviter's is
    what TLS showed, so that somebody in between makes the two sides differ."""

    home: HomeId
    inviter: DeviceId
    joiner: DeviceId
    role: Role
    inviter_name: str
    joiner_name: str
    joiner_element: bytes
    inviter_element: bytes

    def digest(self) -> bytes:
        return hashlib.sha256(
            _LABEL
            + self.home
            + bytes.fromhex(self.inviter)
            + bytes.fromhex(self.joiner)
            + bytes([ROLE_NUMBERS[self.role]])
            + name_field(self.inviter_name)
            + name_field(self.joiner_name)
            + self.joiner_element
            + self.inviter_element
        ).digest()


def joiners_mac(key: bytes, transcript: Transcript) -> bytes:
    return hmac.digest(key, _LABEL + b"joiner" + transcript.digest(), "sha256")


def inviters_mac(key: bytes, transcript: Transcript) -> bytes:
    return hmac.digest(key, _LABEL + b"inviter" + transcript.digest(), "sha256")


def possession(transcript: Transcript) -> bytes:
    """What the joiner signs: the key of its certificate is its own. The inviter's has served in TLS."""
    return _LABEL + b"possession" + transcript.digest()

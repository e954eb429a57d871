"""What a user device says about the home, signed: that a device belongs to it, or does not any more.

    admission   1 | home 32 | signer 32 | role 1 | name: length 1, UTF-8 | certificate: length 2, DER | signature 64
    revocation  2 | home 32 | signer 32 | subject 32 | number kept 2 | kept 32 each, ascending | signature 64

Numbers are big endian; ids are the 32 bytes of the SHA-256. There is one way to write each statement, so its bytes
before the signature are what is signed (behind a label), and their SHA-256 is the statement's key.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from typing import Final, NewType, TypeAlias

from tpid.cluster.identity.certificate import MAX_CERTIFICATE_BYTES, device_id_of, read_certificate
from tpid.cluster.identity.identity import SIGNATURE_BYTES, Sign, is_signed_by
from tpid.cluster.octets import MAX_NAME_BYTES, Octets, name_field
from tpid.device import DeviceId, Role
from tpid.errors import RemoteProtocolError

HomeId = NewType("HomeId", bytes)  # 32 bytes; follows from the device that founded the home
Key = NewType("Key", bytes)  # 32 bytes; of a statement

ID_BYTES: Final = 32
MAX_KEPT: Final = 256
ROLE_NUMBERS: Final = {Role.USER: 1, Role.HELPER: 2}  # as they are written
ROLES: Final = {number: role for role, number in ROLE_NUMBERS.items()}
MAX_STATEMENT_BYTES: Final = max(
    1 + 2 * ID_BYTES + 1 + 1 + MAX_NAME_BYTES + 2 + MAX_CERTIFICATE_BYTES + SIGNATURE_BYTES,
    1 + 3 * ID_BYTES + 2 + MAX_KEPT * ID_BYTES + SIGNATURE_BYTES,
)

_ADMISSION: Final = 1
_REVOCATION: Final = 2
_SIGNED_AS: Final = b"tpid roster 2\0"
_HOME_OF: Final = b"tpid home 2\0"


@dataclass(frozen=True, slots=True)
class Admission:
    """`signer` takes the device of this certificate into the home, under this name and in this role."""

    home: HomeId
    signer: DeviceId
    role: Role
    name: str
    certificate: bytes
    signature: bytes

    @property
    def subject(self) -> DeviceId:
        return device_id_of(self.certificate)

    def unsigned(self) -> bytes:
        return (
            bytes([_ADMISSION])
            + self.home
            + bytes.fromhex(self.signer)
            + bytes([ROLE_NUMBERS[self.role]])
            + name_field(self.name)
            + len(self.certificate).to_bytes(2, "big")
            + self.certificate
        )


@dataclass(frozen=True, slots=True)
class Revocation:
    """`signer` puts `subject` out for ever. Of the admissions that the subject has signed, those of `kept` stay."""

    home: HomeId
    signer: DeviceId
    subject: DeviceId
    kept: tuple[Key, ...]  # ascending
    signature: bytes

    def unsigned(self) -> bytes:
        return (
            bytes([_REVOCATION])
            + self.home
            + bytes.fromhex(self.signer)
            + bytes.fromhex(self.subject)
            + len(self.kept).to_bytes(2, "big")
            + b"".join(self.kept)
        )


Statement: TypeAlias = Admission | Revocation


def home_of(founder: DeviceId) -> HomeId:
    """The home that a device founds: it names its founder and cannot be another's."""
    return HomeId(hashlib.sha256(_HOME_OF + bytes.fromhex(founder)).digest())


def is_founders(admission: Admission) -> bool:
    """Whether it is the one that a home begins with: its founder's of itself."""
    return (
        admission.role is Role.USER
        and admission.signer == admission.subject
        and admission.home == home_of(admission.subject)
    )


def key_of(statement: Statement) -> Key:
    return Key(hashlib.sha256(statement.unsigned()).digest())


def sign_admission(
    home: HomeId, signer: DeviceId, sign: Sign, *, certificate: bytes, name: str, role: Role
) -> Admission:
    unsigned = Admission(home, signer, role, name, certificate, b"")
    return Admission(home, signer, role, name, certificate, sign(_SIGNED_AS + unsigned.unsigned()))


def sign_revocation(home: HomeId, signer: DeviceId, sign: Sign, subject: DeviceId, kept: set[Key]) -> Revocation:
    unsigned = Revocation(home, signer, subject, tuple(sorted(kept)), b"")
    return Revocation(home, signer, subject, unsigned.kept, sign(_SIGNED_AS + unsigned.unsigned()))


def is_genuine(statement: Statement, signers_certificate: bytes) -> bool:
    """Whether the statement is by the device of that certificate, and a certificate within it is one."""
    try:
        key = read_certificate(signers_certificate)
        if isinstance(statement, Admission):
            read_certificate(statement.certificate)
    except RemoteProtocolError:
        return False
    return is_signed_by(key, statement.signature, _SIGNED_AS + statement.unsigned())


def encode_statement(statement: Statement) -> bytes:
    return statement.unsigned() + statement.signature


def decode_statement(data: bytes) -> Statement:
    """Total: raises RemoteProtocolError. Signatures are not checked here."""
    octets = Octets(data, what="A statement of the roster")
    kind = octets.number(1)
    home = HomeId(octets.take(ID_BYTES))
    signer = DeviceId(octets.take(ID_BYTES).hex())
    if kind == _ADMISSION:
        role = ROLES.get(octets.number(1))
        if role is None:
            raise RemoteProtocolError("A statement of the roster gives a role that does not exist.")
        name = octets.name()
        certificate = octets.counted(2, at_most=MAX_CERTIFICATE_BYTES)
        statement: Statement = Admission(home, signer, role, name, certificate, octets.take(SIGNATURE_BYTES))
    elif kind == _REVOCATION:
        subject = DeviceId(octets.take(ID_BYTES).hex())
        n_kept = octets.number(2)
        if n_kept > MAX_KEPT:
            raise RemoteProtocolError(f"A revocation keeps {n_kept} admissions; {MAX_KEPT} are allowed.")
        kept = tuple(Key(octets.take(ID_BYTES)) for _ in range(n_kept))
        if any(first >= second for first, second in itertools.pairwise(kept)):
            raise RemoteProtocolError("A revocation keeps admissions in another order than theirs.")
        statement = Revocation(home, signer, subject, kept, octets.take(SIGNATURE_BYTES))
    else:
        raise RemoteProtocolError(f"A statement of the roster is of the unknown kind {kind}.")
    octets.end()
    return statement

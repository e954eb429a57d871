"""The key of this device and its certificate: made once, kept in one file that only its user may read.

file        what happens
----------  ------------------------------------------------------------------------
missing     a new key and certificate are written aside, then linked into place
sound       they are loaded
damaged     ConfigError: a new key would make this a stranger to its own home
too open    ConfigError: whoever may read it can be this device
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from tpid.cluster.identity.certificate import device_id_of, make_certificate, read_certificate
from tpid.cluster.identity.private_file import create_private, read_private
from tpid.device import DeviceId
from tpid.errors import ConfigError, RemoteProtocolError

FILE_NAME: Final = "identity.pem"
SIGNATURE_BYTES: Final = 64

_WHAT: Final = "the key of this device"
_MAX_FILE_BYTES: Final = 16 * 1024
_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of the curve P-256

Sign = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Identity:
    """`path` is the file of both, as TLS wants it; `certificate` is in DER."""

    id: DeviceId
    certificate: bytes
    key: ec.EllipticCurvePrivateKey
    path: Path

    def sign(self, data: bytes) -> bytes:
        """64 bytes: r and s, big endian, the lower of the two s that fit. ECDSA over SHA-256."""
        r, s = decode_dss_signature(self.key.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + min(s, _ORDER - s).to_bytes(32, "big")


def is_signed_by(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes) -> bool:
    """Whether `signature` is what `Identity.sign` makes of `data` with the key of `key`; the higher s does not count,
    or anybody could turn one signature into a second."""
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    if len(signature) != SIGNATURE_BYTES or not (0 < r < _ORDER and 0 < s <= _ORDER // 2):
        return False
    try:
        key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def load_or_create_identity(state_dir: Path) -> Identity:
    """Raises ConfigError for a file that is damaged or too open, and for a directory that cannot be used."""
    path = state_dir / FILE_NAME
    try:
        return load_identity(path)
    except FileNotFoundError:
        create_private(path, _new_content(), what=_WHAT)
    try:
        return load_identity(path)  # not what was written: another process may have been first
    except FileNotFoundError as error:
        raise ConfigError(f"{path}, {_WHAT}, was removed as soon as it was written.") from error


def load_identity(path: Path) -> Identity:
    """Raises FileNotFoundError, and ConfigError as above."""
    content = read_private(path, what=_WHAT, max_bytes=_MAX_FILE_BYTES)
    try:
        key = serialization.load_pem_private_key(content, password=None)
        certificate = x509.load_pem_x509_certificate(content).public_bytes(serialization.Encoding.DER)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or read_certificate(certificate) != key.public_key():
            raise ValueError("the certificate is not that of the key")
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, RemoteProtocolError) as error:
        raise ConfigError(
            f"{path} does not hold the key and the certificate of this device.",
            hint="Restore it from a backup, or delete it: the device then has to be paired anew.",
        ) from error
    return Identity(device_id_of(certificate), certificate, key, path)


def _new_content() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = x509.load_der_x509_certificate(make_certificate(key))
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + certificate.public_bytes(serialization.Encoding.PEM)

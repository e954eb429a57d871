"""Certificates: what one of this home's kind is, and the id that follows from it.

A certificate is an X.509 one with a P-256 key, signed by that key. Its names and dates mean nothing: a device is the
SHA-256 of the whole, and who belongs to the home the roster says.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import warnings
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID

from tpid.device import DeviceId
from tpid.errors import RemoteProtocolError

MAX_CERTIFICATE_BYTES: Final = 1024  # ours take some 400

# A device without a battery for its clock starts in 1970; the end is how X.509 writes "none" (RFC 5280, 4.1.2.5).
_FROM: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_UNTIL: Final = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
_DER: Final = serialization.Encoding.DER
_GROUP_CHARACTERS: Final = 4
_SHORT_GROUPS: Final = 4


def make_certificate(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A certificate of `key`, in DER."""
    public = key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    # A name of its own, by which TLS finds it among those of the roster.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tpid " + hashlib.sha256(public).hexdigest()[:32])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(_DER)


def read_certificate(der: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a certificate that a peer has sent. Total: raises RemoteProtocolError for any other bytes."""
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise RemoteProtocolError(f"A certificate of {len(der)} bytes is larger than {MAX_CERTIFICATE_BYTES}.")
    try:
        with warnings.catch_warnings():
            # What the library only warns of, later versions refuse: devices of one home must agree.
            warnings.simplefilter("error", CryptographyDeprecationWarning)
            certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
        algorithm = certificate.signature_algorithm_oid
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise RemoteProtocolError("A certificate is not of a P-256 key.")
        if algorithm != x509.SignatureAlgorithmOID.ECDSA_WITH_SHA256:
            raise RemoteProtocolError("A certificate is not signed with ECDSA and SHA-256.")
        if certificate.issuer != certificate.subject:
            raise RemoteProtocolError("A certificate names another as its issuer.")
        key.verify(certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(hashes.SHA256()))
        # Nothing signs how the signature itself is written: one way is enough.
        if not der.endswith(b"\0" + certificate.signature) or certificate.public_bytes(_DER) != der:
            raise RemoteProtocolError("A certificate is not written as DER has it.")
    except InvalidSignature:
        raise RemoteProtocolError("A certificate is not signed by its own key.") from None
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, CryptographyDeprecationWarning) as error:
        raise RemoteProtocolError(f"A certificate cannot be read: {str(error)[:100]}.") from None
    return key


def device_id_of(certificate: bytes) -> DeviceId:
    """The SHA-256 of a certificate in DER, 64 hex digits."""
    return DeviceId(hashlib.sha256(certificate).hexdigest())


def fingerprint(device_id: DeviceId) -> str:
    """The id for people to compare: 13 groups of four letters and digits, in base32."""
    letters = base64.b32encode(bytes.fromhex(device_id)).decode("ascii").rstrip("=")
    return "-".join(letters[start : start + _GROUP_CHARACTERS] for start in range(0, len(letters), _GROUP_CHARACTERS))


def short_fingerprint(device_id: DeviceId) -> str:
    """The first four groups: 80 bits, enough to tell devices apart in a list."""
    return "-".join(fingerprint(device_id).split("-")[:_SHORT_GROUPS])

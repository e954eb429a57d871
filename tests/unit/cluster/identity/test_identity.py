import os
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from tpid.cluster.identity.certificate import (
    device_id_of,
    fingerprint,
    make_certificate,
    read_certificate,
    short_fingerprint,
)
from tpid.cluster.identity.identity import (
    FILE_NAME,
    SIGNATURE_BYTES,
    is_signed_by,
    load_identity,
    load_or_create_identity,
)
from tpid.device import DeviceId
from tpid.errors import ConfigError, RemoteProtocolError

_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def test_an_identity_is_made_once_and_kept(tmp_path: Path) -> None:
    state = tmp_path / "a" / "state"
    first = load_or_create_identity(state)
    again = load_or_create_identity(state)
    assert (again.id, again.certificate) == (first.id, first.certificate)
    assert stat.S_IMODE((state / FILE_NAME).stat().st_mode) == 0o600
    assert os.listdir(state) == [FILE_NAME]
    assert load_or_create_identity(tmp_path / "b").id != first.id


def test_the_certificate_is_valid_for_a_device_without_a_clock(tmp_path: Path) -> None:
    identity = load_or_create_identity(tmp_path)
    certificate = x509.load_der_x509_certificate(identity.certificate)
    assert certificate.not_valid_before_utc.timestamp() == 0
    assert certificate.not_valid_after_utc.year == 9999
    assert certificate.issuer == certificate.subject
    assert read_certificate(identity.certificate) == identity.key.public_key()


def test_the_first_of_two_processes_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = load_or_create_identity(tmp_path / "other")
    link = os.link

    def link_second(source: Path, target: Path) -> None:
        target.write_bytes(other.path.read_bytes())
        target.chmod(0o600)
        link(source, target)

    monkeypatch.setattr(os, "link", link_second)
    assert load_or_create_identity(tmp_path).id == other.id
    assert sorted(os.listdir(tmp_path)) == [FILE_NAME, "other"]


def test_a_damaged_file_is_told_and_left_alone(tmp_path: Path) -> None:
    path = load_or_create_identity(tmp_path).path
    other = load_or_create_identity(tmp_path / "other").path.read_bytes()
    sound = path.read_bytes()
    key, certificate = sound.split(b"-----BEGIN CERTIFICATE")
    others_certificate = b"-----BEGIN CERTIFICATE" + other.split(b"-----BEGIN CERTIFICATE")[1]
    for content in (
        b"",
        b"\xff" * 100,
        sound[:-100],
        key,
        b"-----BEGIN CERTIFICATE" + certificate,
        key + others_certificate,
        sound.replace(b"M", b"N", 3),
        b"0" * 2**20,
    ):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="Restore it from a backup"):
            load_or_create_identity(tmp_path)
        assert path.read_bytes() == content


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = load_or_create_identity(tmp_path).path
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"open to other users.*{mode:04o}.*chmod 600"):
        load_or_create_identity(tmp_path)
    path.chmod(0o400)
    load_or_create_identity(tmp_path)


def test_a_directory_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="state directory"):
        load_or_create_identity(tmp_path / "file")
    (tmp_path / "state" / FILE_NAME).mkdir(parents=True)
    with pytest.raises(ConfigError, match="state directory"):
        load_or_create_identity(tmp_path / "state")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match="is no file"):
        load_identity(tmp_path / "fifo")


def test_a_signature_is_of_one_key_one_text_and_one_form(tmp_path: Path) -> None:
    identity = load_or_create_identity(tmp_path)
    key = identity.key.public_key()
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    for _ in range(20):  # half of what the library makes has the higher s
        signature = identity.sign(b"text")
        assert len(signature) == SIGNATURE_BYTES
        assert is_signed_by(key, signature, b"text")
    assert not is_signed_by(key, signature, b"texts")
    assert not is_signed_by(other, signature, b"text")
    higher = signature[:32] + (_ORDER - int.from_bytes(signature[32:], "big")).to_bytes(32, "big")
    assert not is_signed_by(key, higher, b"text")
    for broken in (b"", signature[:-1], signature + b"\0", bytes(64), signature[:32] + bytes(32), b"\xff" * 64):
        assert not is_signed_by(key, broken, b"text")


CERTIFICATE = make_certificate(ec.generate_private_key(ec.SECP256R1()))


def test_certificates_of_other_kinds_are_refused() -> None:
    rsa_like = make_certificate(ec.generate_private_key(ec.SECP384R1()))  # type: ignore[arg-type]
    with pytest.raises(RemoteProtocolError, match="P-256"):
        read_certificate(rsa_like)
    with pytest.raises(RemoteProtocolError):
        read_certificate(CERTIFICATE + b"\0")
    unused_bits = len(CERTIFICATE) - len(x509.load_der_x509_certificate(CERTIFICATE).signature) - 1
    even = CERTIFICATE[:-1] + bytes([CERTIFICATE[-1] & 0xFE])
    for certificate in (CERTIFICATE, even):
        with pytest.raises(RemoteProtocolError):
            read_certificate(certificate[:unused_bits] + b"\1" + certificate[unused_bits + 1 :])
    with pytest.raises(RemoteProtocolError, match="larger"):
        read_certificate(CERTIFICATE + bytes(1000))


def test_a_serial_number_that_is_none_is_refused_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    serial = b"\0"
    while serial[0] == 0:
        certificate = make_certificate(ec.generate_private_key(ec.SECP256R1()))
        serial = x509.load_der_x509_certificate(certificate).serial_number.to_bytes(20, "big")
    with pytest.raises(RemoteProtocolError, match="cannot be read"):
        read_certificate(certificate.replace(serial, bytes([serial[0] | 0x80]) + serial[1:]))
    assert not recwarn.list


@given(st.binary(max_size=600))
def test_any_bytes_are_a_certificate_or_one_error(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        read_certificate(data)


@given(st.data())
def test_a_certificate_that_was_changed_is_refused(data: st.DataObject) -> None:
    mangled = bytearray(CERTIFICATE)
    place = data.draw(st.integers(0, len(mangled) - 1))
    mangled[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RemoteProtocolError):
        read_certificate(bytes(mangled))


def test_fingerprints_are_shown_in_groups() -> None:
    device = device_id_of(b"certificate")
    assert device == "03d66dd08835c1ca3f128cceacd1f31ac94163096b20f445ae84285bc0832d72"  # by sha256sum
    last = DeviceId("00" * 31 + "ff")
    assert fingerprint(last) == "AAAA-" * 12 + "AD7Q"  # by base32 of coreutils
    assert short_fingerprint(last) == "AAAA-AAAA-AAAA-AAAA"

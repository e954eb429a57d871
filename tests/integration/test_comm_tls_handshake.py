"""TLS between two devices: who is let in, and what each side is told."""

import asyncio
import datetime
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.integration.stream_ends import (
    identity,
    open_doors,
    send_in_pieces,
    tcp_pair,
    within_a_minute,
)
from tpid.cluster.identity.certificate import device_id_of
from tpid.cluster.identity.contexts import member_client, member_server, pairing_client, pairing_server
from tpid.cluster.identity.identity import Identity, load_or_create_identity
from tpid.comm.frames import PREFIX
from tpid.comm.opening import Purpose, closed, encode_opening
from tpid.comm.tls_channel import TlsChannel
from tpid.comm.tls_handshake import Door, answer_tls, dial_tls
from tpid.errors import (
    DeviceLostError,
    NotPairedError,
    PairingError,
    RefusedError,
    RemoteProtocolError,
    TpidError,
    VersionMismatchError,
)

run = within_a_minute(asyncio.run)
Result = TlsChannel | TpidError


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> tuple[Identity, Identity, Identity]:
    first, second, third = (load_or_create_identity(tmp_path_factory.mktemp(name)) for name in "abc")
    return first, second, third


def admit_all(_: bytes | None) -> bool:
    return True


async def meet(
    server: ssl.SSLContext,
    client: ssl.SSLContext,
    server_admits: Callable[[bytes | None], bool] = admit_all,
    client_admits: Callable[[bytes | None], bool] = admit_all,
) -> tuple[Result, Result]:
    """What becomes of the listener and of the dialler."""
    ours, theirs = tcp_pair()
    ours.setblocking(False)
    theirs.setblocking(False)
    doors = {Purpose.MEMBER: Door(server, server_admits)}
    answered, dialled = await asyncio.gather(
        answer_tls(ours, doors, peer_address="dialler", timeout_s=5),
        dial_tls(theirs, Purpose.MEMBER, Door(client, client_admits), peer_address="listener", timeout_s=5),
        return_exceptions=True,
    )
    results = (answered[1] if isinstance(answered, tuple) else answered, dialled)
    for result in results:
        if isinstance(result, TlsChannel):
            result.close(orderly=False)
        else:
            assert isinstance(result, TpidError), result
    assert ours.fileno() == theirs.fileno() == -1
    return results[0], results[1]  # type: ignore[return-value]


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_members_meet_and_know_whom(runner: Callable[..., None], people: tuple[Identity, ...]) -> None:
    a, b, c = people
    everybody = [person.certificate for person in people]
    seen: list[bytes | None] = []

    def look(certificate: bytes | None) -> bool:
        seen.append(certificate)
        return True

    async def test() -> None:
        for server, client in ((a, b), (b, a), (c, a)):
            seen.clear()
            results = await meet(member_server(server, everybody), member_client(client, everybody), look, look)
            assert all(isinstance(result, TlsChannel) for result in results)
            assert sorted(seen, key=str) == sorted([client.certificate, server.certificate], key=str)

    within_a_minute(runner)(test())


def test_a_stranger_is_refused_in_the_handshake_and_told_so(people: tuple[Identity, ...]) -> None:
    a, b, stranger = people

    async def test() -> None:
        asked: list[bytes | None] = []
        server = member_server(a, [a.certificate, b.certificate])
        listener, dialler = await meet(
            server, member_client(stranger, [a.certificate]), lambda _: bool(asked.append(_)) or True
        )
        assert isinstance(listener, NotPairedError)
        assert isinstance(dialler, NotPairedError)
        assert "does not belong to this home" in str(listener)
        assert "does not count this device to its home" in str(dialler)
        assert not asked
        nobody = member_server(a, [])
        assert all(
            isinstance(result, NotPairedError) for result in await meet(nobody, member_client(b, [a.certificate]))
        )
        without = pairing_client()  # shows no certificate
        assert all(isinstance(result, NotPairedError) for result in await meet(server, without))

    run(test())


def test_a_listener_of_another_home_is_refused(people: tuple[Identity, ...]) -> None:
    a, b, c = people

    async def test() -> None:
        listener, dialler = await meet(member_server(a, [b.certificate]), member_client(b, [c.certificate]))
        assert isinstance(dialler, NotPairedError)
        assert "does not belong to this home" in str(dialler)
        assert isinstance(listener, NotPairedError)

    run(test())


def test_who_was_revoked_a_moment_ago_is_told_so(people: tuple[Identity, ...]) -> None:
    a, b, _ = people
    both = [a.certificate, b.certificate]

    async def test() -> None:
        results = await meet(member_server(a, both), member_client(b, both), lambda _: False)
        assert all(isinstance(result, NotPairedError) for result in results)
        _, dialler = await meet(member_server(a, both), member_client(b, both), admit_all, lambda _: False)
        assert isinstance(dialler, NotPairedError)

    run(test())


def test_a_member_cannot_vouch_for_others(tmp_path: Path, people: tuple[Identity, ...]) -> None:
    """Its certificate says that it is an authority, and TLS takes it at its word: the second look does not."""
    a = people[0]
    authority_key, child_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "authority")])
    other = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "child")])
    long_ago = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)

    def certificate(subject: x509.Name, key: ec.EllipticCurvePrivateKey, authority: bool) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(long_ago)
            .not_valid_after(long_ago + datetime.timedelta(days=1))  # nor do dates count
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .sign(authority_key, hashes.SHA256())
        )

    authority = certificate(name, authority_key, True).public_bytes(serialization.Encoding.DER)

    def identity_of(file: str, subject: x509.Name, key: ec.EllipticCurvePrivateKey, is_authority: bool) -> Identity:
        made = certificate(subject, key, is_authority)
        path = tmp_path / file
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + made.public_bytes(serialization.Encoding.PEM)
        )
        der = made.public_bytes(serialization.Encoding.DER)
        return Identity(device_id_of(der), der, key, path)

    child = identity_of("child.pem", other, child_key, False)
    expired = identity_of("authority.pem", name, authority_key, True)
    roster = [authority, expired.certificate]

    async def test() -> None:
        server = member_server(a, roster)
        results = await meet(server, member_client(child, [a.certificate]), lambda der: der in roster)
        assert all(isinstance(result, NotPairedError) for result in results)
        for certificates in (roster, roster[::-1]):  # two of one name: neither keeps the other out
            server = member_server(a, certificates)
            results = await meet(server, member_client(expired, [a.certificate]), lambda der: der in roster)
            assert all(isinstance(result, TlsChannel) for result in results)

    run(test())


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", DeviceLostError),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", RemoteProtocolError),
        (b"\x16\x03\x03\xff\xff" + bytes(100_000), TpidError),
        (None, DeviceLostError),
    ],
    ids=["gone", "no TLS", "a record without end", "silent"],
)
def test_a_listener_that_is_none(answer: bytes | None, error: type[TpidError], people: tuple[Identity, ...]) -> None:
    async def test() -> None:
        ours, theirs = tcp_pair()
        ours.setblocking(False)
        with theirs:
            if answer is not None:
                theirs.sendall(answer)
                theirs.shutdown(socket.SHUT_WR)
            context = member_client(people[0], [])
            with pytest.raises(error) as caught:
                await dial_tls(ours, Purpose.MEMBER, Door(context, admit_all), peer_address="x", timeout_s=0.2)
            assert not isinstance(caught.value, NotPairedError)
        assert ours.fileno() == -1

    run(test())


def test_a_listener_that_dies_before_its_word_is_gone_and_not_unpaired() -> None:
    async def test() -> None:
        ours, theirs = tcp_pair()
        ours.setblocking(False)
        server = pairing_server(identity())

        def shake_hands_and_leave() -> None:
            assert theirs.recv(12) == encode_opening(Purpose.PAIRING)
            with server.wrap_socket(theirs, server_side=True) as tls, suppress(OSError):
                tls.unwrap()

        leaving = asyncio.create_task(asyncio.to_thread(shake_hands_and_leave))
        door = Door(pairing_client(), admit_all)
        with pytest.raises(DeviceLostError):
            await dial_tls(ours, Purpose.PAIRING, door, peer_address="x", timeout_s=5)
        await asyncio.gather(leaving, return_exceptions=True)

    run(test())


def test_no_session_outlives_its_connection() -> None:
    """There is nothing to resume: a resumed session would not ask for the certificate again."""
    ours, theirs = tcp_pair()

    def serve() -> None:
        with pairing_server(identity()).wrap_socket(ours, server_side=True) as tls:
            tls.sendall(b"x")
            with suppress(OSError):
                tls.unwrap()

    thread = threading.Thread(target=serve)
    thread.start()
    client = pairing_client()
    client.options &= ~ssl.OP_NO_TICKET
    with client.wrap_socket(theirs) as tls:
        assert tls.version() == "TLSv1.3"
        assert tls.recv(1) == b"x"  # a ticket would have come before it
        assert tls.session is not None
        assert not tls.session.has_ticket
        tls.unwrap()
    thread.join()


def test_older_tls_is_refused() -> None:
    async def test() -> None:
        old = pairing_client()
        old.minimum_version = ssl.TLSVersion.TLSv1_2
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        listener, dialler = await meet(pairing_server(identity()), old)
        assert isinstance(listener, RemoteProtocolError)
        assert isinstance(dialler, RemoteProtocolError)

    run(test())


# The opening


@pytest.mark.parametrize(
    ("purpose", "error", "told"),
    [(Purpose.PAIRING, PairingError, "no invitation open"), (Purpose.MEMBER, RefusedError, "no home yet")],
)
def test_what_is_not_possible_now_is_told(purpose: Purpose, error: type[TpidError], told: str) -> None:
    async def test() -> None:
        ours, theirs = tcp_pair()
        ours.setblocking(False)
        theirs.setblocking(False)
        answered, dialled = await asyncio.gather(
            answer_tls(ours, {}, peer_address="dialler", timeout_s=5),
            dial_tls(theirs, purpose, Door(pairing_client(), admit_all), peer_address="listener", timeout_s=5),
            return_exceptions=True,
        )
        assert isinstance(answered, RefusedError)
        assert type(dialled) is error
        assert told in str(dialled)

    run(test())


def test_a_device_of_version_1_is_told_on_both_sides() -> None:
    """A dialler gets a prefix of version 2, which it can read; a listener's refusal has its version in it."""
    hello = PREFIX.pack(b"TP", 1, 1, 1000, 0) + bytes(1000)
    refuse = PREFIX.pack(b"TP", 1, 2, 3, 0) + bytes(3)

    async def test() -> None:
        ours, theirs = tcp_pair()
        ours.setblocking(False)
        with theirs:
            theirs.sendall(hello)  # more than is read: the answer must not be lost by a reset
            theirs.shutdown(socket.SHUT_WR)
            with pytest.raises(VersionMismatchError, match=r"version 1 .* Upgrade tpid on that one"):
                await answer_tls(ours, open_doors(), peer_address="x", timeout_s=5)
            assert theirs.recv(100) == closed()
            assert theirs.recv(100) == b""
            assert closed()[:3] == b"TP\x02"
        for piece_bytes in (1, 100):
            ours, theirs = tcp_pair()
            ours.setblocking(False)
            theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with theirs:
                send_in_pieces(theirs, refuse, piece_bytes)
                door = Door(pairing_client(), admit_all)
                with pytest.raises(VersionMismatchError, match="version 1"):
                    await dial_tls(ours, Purpose.MEMBER, door, peer_address="x", timeout_s=5)

    run(test())


@pytest.mark.parametrize(
    "data", [b"", b"TP", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00" + bytes(20), b"TP\x02\x63" + bytes(8)]
)
def test_strangers_get_no_byte(data: bytes) -> None:
    async def test() -> None:
        ours, theirs = tcp_pair()
        ours.setblocking(False)
        with theirs:
            theirs.sendall(data)
            theirs.shutdown(socket.SHUT_WR)
            with pytest.raises((DeviceLostError, RemoteProtocolError)):
                await answer_tls(ours, open_doors(), peer_address="x", timeout_s=5)
            with suppress(ConnectionError):
                assert theirs.recv(100) == b""

    run(test())

"""Streams over TLS: in pieces, cut off, changed, paused, ended on one side; and frames over them."""

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from tests.integration.stream_ends import (
    FOREVER_S,
    Form,
    Owner,
    connected,
    end,
    open_doors,
    pair,
    read_all,
    send_in_pieces,
    tcp_pair,
    within_a_minute,
)
from tpid.cluster.identity.contexts import pairing_client
from tpid.comm.connection import Connection
from tpid.comm.handshake import Handshake
from tpid.comm.messages import Hello, Kind
from tpid.comm.opening import Purpose, encode_opening
from tpid.comm.settings import CommSettings
from tpid.comm.stream import Stream
from tpid.comm.tensors import TensorHeader
from tpid.comm.tls_channel import TlsChannel
from tpid.comm.tls_handshake import Door, answer_tls, dial_tls
from tpid.comm.wire_dtype import WireDtype
from tpid.device import DeviceId, DeviceProfile, Role
from tpid.errors import (
    TpidError,
)

run = within_a_minute(asyncio.run)


def admit_all(_: bytes | None) -> bool:
    return True


@pytest.mark.parametrize("buffer_bytes", [1, 1000, 16384, 2**20])
@pytest.mark.parametrize("form", list(Form))
def test_a_large_payload_into_a_buffer_of_any_size(form: Form, buffer_bytes: int) -> None:
    data = os.urandom(50_000 if buffer_bytes == 1 else 3 * 2**20)

    async def test() -> None:
        async with pair(form, buffer_bytes=buffer_bytes) as (_, owner, theirs):
            sending = asyncio.create_task(asyncio.to_thread(lambda: (theirs.sendall(data), end_only(theirs))))
            assert await owner.end is None
            assert owner.eof
            assert owner.received == data
            await sending

    def end_only(sock: socket.socket) -> None:
        end(sock)

    run(test())


async def relayed() -> tuple[Stream, Owner, ssl.SSLObject, ssl.MemoryBIO, socket.socket]:
    """A stream over TLS; the peer's TLS with what it has to send; the socket to send it on, piece by piece."""
    ours, theirs = tcp_pair()
    ours.setblocking(False)
    theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = pairing_client().wrap_bio(incoming, outgoing)

    def shake_hands() -> None:
        theirs.sendall(encode_opening(Purpose.PAIRING))
        done = False
        while not done or not incoming.pending:
            try:
                tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            theirs.sendall(outgoing.read())
            if not done or not incoming.pending:
                incoming.write(theirs.recv(65536))
        assert tls.read(1) == b"\x01"

    shaking = asyncio.create_task(asyncio.to_thread(shake_hands))
    _, channel = await answer_tls(ours, open_doors(), peer_address="x", timeout_s=5)
    await shaking
    owner = Owner()
    stream = Stream(channel, owner, write_pause_bytes=2**20)
    stream.start()
    return stream, owner, tls, outgoing, theirs


@pytest.mark.parametrize("piece_bytes", [1, 7, 1000])
@pytest.mark.parametrize("waits", [False, True])
def test_records_come_in_pieces(piece_bytes: int, waits: bool) -> None:
    data = os.urandom(1000 * min(piece_bytes, 50))

    async def test() -> None:
        stream, owner, tls, outgoing, theirs = await relayed()
        tls.write(data)
        with pytest.raises(ssl.SSLWantReadError):
            tls.unwrap()
        sending = threading.Thread(target=send_in_pieces, args=[theirs, outgoing.read(), piece_bytes])
        sending.start()
        with theirs:
            while waits and not stream.is_closing:
                assert stream.receive(FOREVER_S)
            assert await owner.end is None
            assert owner.eof
            assert owner.received == data
            sending.join()

    run(test())


@pytest.mark.parametrize("missing_bytes", [1, 24, 30, 5000])
def test_a_stream_that_is_cut_off_has_not_ended(missing_bytes: int) -> None:
    async def test() -> None:
        _, owner, tls, outgoing, theirs = await relayed()
        tls.write(os.urandom(16384))
        tls.write(os.urandom(10))
        with pytest.raises(ssl.SSLWantReadError):
            tls.unwrap()
        theirs.sendall(outgoing.read()[:-missing_bytes])
        theirs.close()
        assert isinstance(await owner.end, ConnectionAbortedError)
        assert not owner.eof
        # What was whole has come, and nothing of what was not.
        assert len(owner.received) == {1: 16394, 24: 16394, 30: 16384, 5000: 0}[missing_bytes]

    run(test())


def test_a_byte_that_was_changed_ends_the_stream() -> None:
    async def test() -> None:
        _, owner, tls, outgoing, theirs = await relayed()
        tls.write(b"x" * 100)
        record = bytearray(outgoing.read())
        record[50] ^= 1
        theirs.sendall(record)
        assert isinstance(await owner.end, ssl.SSLError)
        assert owner.received == b""
        theirs.close()

    run(test())


def test_what_came_with_others_waits_while_reading_is_paused() -> None:
    """The socket shows nothing of it: resuming alone must bring it."""

    async def test() -> None:
        channel, theirs = await connected(Form.TLS)

        class Pausing(Owner):
            def buffer_updated(self, n_bytes: int) -> None:
                super().buffer_updated(n_bytes)
                stream.pause_reading()

        owner = Pausing(buffer_bytes=100)
        stream = Stream(channel, owner, write_pause_bytes=2**20)
        with theirs:
            theirs.sendall(b"x" * 250)
            stream.start()
            await owner.more.wait()
            for n_bytes, waits in ((200, False), (250, True)):
                assert not stream.receive(FOREVER_S)  # paused
                owner.more.clear()
                stream.resume_reading()
                if waits:
                    assert stream.receive(FOREVER_S)
                await owner.more.wait()
                assert len(owner.received) == n_bytes
        stream.abort()

    run(test())


@pytest.mark.parametrize("n_bytes", [150, 40_000])
def test_what_came_before_this_side_ended_its_half_is_not_lost(n_bytes: int) -> None:
    async def test() -> None:
        channel, theirs = await connected(Form.TLS)

        class Ending(Owner):
            def buffer_updated(self, n_bytes: int) -> None:
                super().buffer_updated(n_bytes)
                stream.end_writing()

        owner = Ending(buffer_bytes=100)
        stream = Stream(channel, owner, write_pause_bytes=2**20)
        with theirs:
            theirs.sendall(b"x" * n_bytes)
            stream.start()
            assert await asyncio.to_thread(read_all, theirs) == b""  # the orderly end of our half
            await asyncio.to_thread(end, theirs)
            assert await owner.end is None
            assert owner.eof
            assert len(owner.received) == n_bytes

    run(test())


class FullSocket:
    """A socket that can be full at the very moment when all has been taken."""

    def __init__(self, sock: socket.socket) -> None:
        self.is_full = False
        self.was_tried = asyncio.Event()
        self._sock = sock

    def send(self, data: bytes) -> int:
        if self.is_full:
            self.was_tried.set()
            raise BlockingIOError
        return self._sock.send(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


@pytest.mark.parametrize("closes", [False, True])
def test_the_end_waits_for_room_like_all_else(closes: bool) -> None:
    async def test() -> None:
        channel, theirs = await connected(Form.TLS)
        full = FullSocket(channel.sock)
        channel.sock = full  # type: ignore[misc]
        owner = Owner()
        stream = Stream(channel, owner, write_pause_bytes=2**20)
        stream.start()
        with theirs:
            stream.write(b"last")
            full.is_full = True
            if closes:
                stream.close()
            else:
                stream.end_writing()
            await full.was_tried.wait()
            assert stream.unsent_bytes > 0
            assert not owner.end.done()
            full.is_full = False
            assert await asyncio.to_thread(read_all, theirs) == b"last"
            await asyncio.to_thread(end, theirs)
            assert await owner.end is None

    run(test())


# Frames


class Keeper:
    """Takes the payloads of one connection."""

    def __init__(self, size_bytes: int) -> None:
        self.payload = memoryview(bytearray(size_bytes))
        self.arrived = asyncio.Event()
        self.error: asyncio.Future[TpidError] = asyncio.get_running_loop().create_future()

    def payload_buffer(self, connection: Connection, kind: Kind, header: object, size_bytes: int) -> memoryview:
        return self.payload

    def received(self, connection: Connection, kind: Kind, message: object, payload: memoryview | None) -> None:
        self.arrived.set()

    def lost(self, connection: Connection, error: TpidError) -> None:
        self.error.set_result(error)


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_connection_runs_over_tls_as_over_tcp(runner: Callable[..., None]) -> None:
    data = os.urandom(5 * 2**20)

    def connection(channel: TlsChannel, number: int, dialled: bool) -> tuple[Connection, asyncio.Future[Connection]]:
        profile = DeviceProfile(
            DeviceId(f"{number:064x}"), f"device{number}", Role.USER, "0", 2**33, 2**32, 2**36, 1, 1e9, "torch"
        )
        opened: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        handshake = Handshake(Hello(cluster="home", profile=profile), dialled=dialled, peer_address="x")
        made = Connection(
            channel,  # type: ignore[arg-type]
            lambda _: handshake,
            CommSettings(),
            on_open=opened.set_result,
            on_failed=lambda _, error: opened.set_exception(error),
        )
        return made, opened

    async def test() -> None:
        ours, theirs = tcp_pair()
        ours.setblocking(False)
        theirs.setblocking(False)
        door = Door(pairing_client(), admit_all)
        (_, answered), dialled = await asyncio.gather(
            answer_tls(ours, open_doors(), peer_address="x", timeout_s=5),
            dial_tls(theirs, Purpose.PAIRING, door, peer_address="x", timeout_s=5),
        )
        first, first_open = connection(answered, 0, False)
        second, second_open = connection(dialled, 1, True)
        await asyncio.gather(first_open, second_open)
        keepers = [Keeper(len(data)), Keeper(len(data))]
        first.set_receiver(keepers[0])
        second.set_receiver(keepers[1])
        header = TensorHeader(term=1, pass_id=1, step=0, n_tokens=1, wire_dtype=WireDtype.FP32)
        second.send_tensor(Kind.PARTIAL, header, data)
        first.send_tensor(Kind.SUM, header, data)
        for keeper in keepers:
            await keeper.arrived.wait()
            assert keeper.payload == data
        await second.close("It is late.")
        assert "left: It is late." in str(await keepers[0].error)

    within_a_minute(runner)(test())

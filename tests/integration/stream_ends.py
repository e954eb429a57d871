"""A stream on one end of a TCP connection and a blocking socket of the standard library on the other."""

import asyncio
import functools
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from enum import Enum
from pathlib import Path
from typing import Any, TypeAlias

from tpid.cluster.identity.contexts import pairing_client, pairing_server
from tpid.cluster.identity.identity import Identity, load_or_create_identity
from tpid.comm.channel import Channel, PlainChannel
from tpid.comm.opening import Purpose, encode_opening
from tpid.comm.stream import Stream
from tpid.comm.tls_handshake import Door, answer_tls

End: TypeAlias = socket.socket | ssl.SSLSocket
Run = Callable[[Coroutine[Any, Any, None]], None]
FOREVER_S = 1e6


class Form(Enum):
    PLAIN = "plain"
    TLS = "tls"


class Owner:
    """Keeps what comes; can wait for the end."""

    def __init__(self, buffer_bytes: int = 65536) -> None:
        self.buffer = memoryview(bytearray(buffer_bytes))
        self.received = bytearray()
        self.eof = False
        self.calls: list[str] = []
        self.bug: Exception | None = None
        self.more = asyncio.Event()
        self.end: asyncio.Future[OSError | None] = asyncio.get_running_loop().create_future()

    def get_buffer(self) -> memoryview:
        return self.buffer

    def buffer_updated(self, n_bytes: int) -> None:
        if self.bug is not None:
            raise self.bug
        self.received += self.buffer[:n_bytes]
        self.more.set()

    def eof_received(self) -> None:
        self.eof = True

    def connection_lost(self, error: OSError | None) -> None:
        self.end.set_result(error)

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")


def within_a_minute(runner: Callable[[Coroutine[Any, Any, None]], None]) -> Run:
    """Runs a test under `runner`, `asyncio.run` or another, and ends one that hangs."""

    async def with_deadline(test: Coroutine[Any, Any, None]) -> None:
        async with asyncio.timeout(60):
            await test

    return lambda test: runner(with_deadline(test))


@functools.cache
def identity() -> Identity:
    return load_or_create_identity(Path(tempfile.mkdtemp(prefix="tpid-test-identity-")))


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    return ours, theirs


async def connected(form: Form) -> tuple[Channel, End]:
    """Our channel and their end, both up."""
    ours, theirs = tcp_pair()
    if form is Form.PLAIN:
        return PlainChannel(ours), theirs
    ours.setblocking(False)
    theirs_tls = asyncio.create_task(asyncio.to_thread(_wrap, theirs))
    _, channel = await answer_tls(ours, open_doors(), peer_address="test", timeout_s=10)
    return channel, await theirs_tls


def open_doors() -> dict[Purpose, Door]:
    """Anybody may come in to pair."""
    return {Purpose.PAIRING: Door(pairing_server(identity()), lambda _: True)}


def _wrap(sock: socket.socket) -> ssl.SSLSocket:
    sock.sendall(encode_opening(Purpose.PAIRING))
    tls = pairing_client().wrap_socket(sock, suppress_ragged_eofs=False)
    assert tls.recv(1) == b"\x01"
    return tls


@asynccontextmanager
async def pair(
    form: Form, *, write_pause_bytes: int = 2**20, buffer_bytes: int = 65536
) -> AsyncIterator[tuple[Stream, Owner, End]]:
    """A stream and the other end, a blocking socket."""
    channel, theirs = await connected(form)
    owner = Owner(buffer_bytes)
    stream = Stream(channel, owner, write_pause_bytes=write_pause_bytes)
    stream.start()
    with theirs:
        yield stream, owner, theirs
    stream.abort()


def read_all(sock: End) -> bytes:
    """To the orderly end. Raises OSError where there is none."""
    data = bytearray()
    while more := sock.recv(2**20):
        data += more
    return bytes(data)


def end(sock: End) -> None:
    """End the half of `sock` in order. Blocks until the other half has ended too, over TLS."""
    if isinstance(sock, ssl.SSLSocket):
        sock.unwrap()
    else:
        sock.shutdown(socket.SHUT_WR)


def send_in_pieces(sock: socket.socket, data: bytes, piece_bytes: int) -> None:
    for start in range(0, len(data), piece_bytes):
        sock.sendall(data[start : start + piece_bytes])

"""The ways to add up a tensor over processes that `benchmarks/allreduce.py` compares; one class, one rank of one way.

`Ours` is the star over real connections (hello, heartbeats, frames) under uvloop, `OursOverTls` the same through TLS
1.3. `Blocking` moves the same bytes in
the same star with `recv_into` and `sendall`, a 32-byte head before each payload, and nothing else. `Gloo` is
torch.distributed's. A rank runs in a process of its own and does what `serve` is told over a pipe.
"""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Protocol

import numpy as np
import uvloop

from tpid.cluster.identity.contexts import pairing_client, pairing_server
from tpid.cluster.identity.identity import load_or_create_identity
from tpid.comm.connection import Connection
from tpid.comm.dialling import dial
from tpid.comm.frames import Header
from tpid.comm.handshake import Handshake
from tpid.comm.listener import Listener
from tpid.comm.messages import Hello, Kind
from tpid.comm.opening import Purpose
from tpid.comm.settings import CommSettings
from tpid.comm.star import StarHub, StarLeaf
from tpid.comm.tensors import StartHeader, TensorHeader
from tpid.comm.tls_channel import TlsChannel
from tpid.comm.tls_handshake import Door, answer_tls, dial_tls
from tpid.comm.wire_dtype import WireDtype
from tpid.device import DeviceId, DeviceProfile, Role
from tpid.errors import TpidError

HOST = "127.0.0.1"
HEAD_BYTES = 32
TLS_TIMEOUT_S = 30.0


class Exchange(Protocol):
    async def join(self, rank: int, n_ranks: int, port: int) -> int:
        """Meet the others at `port` of rank 0, which chooses one where it is 0 and returns at once; the port."""
        ...

    async def begin(self, n_values: int) -> None:
        """Rank 0 is called first, the others when it has returned. Others may have to wait here."""
        ...

    async def run(self, partial: np.ndarray, steps: int) -> list[float]:
        """Add up `partial` fp32 [n] `steps` times; seconds for each. Raises ValueError where the sum is wrong."""
        ...

    async def leave(self) -> None: ...


class ToStar:
    """Hands tensors to the star of the payload size at hand."""

    star: StarHub | StarLeaf

    def payload_buffer(
        self, connection: Connection, kind: Kind, header: StartHeader | TensorHeader, size_bytes: int
    ) -> memoryview | None:
        assert isinstance(header, TensorHeader)
        return self.star.payload_buffer(connection, header, size_bytes)

    def received(self, connection: Connection, kind: Kind, message: Header, payload: memoryview | None) -> None:
        assert isinstance(message, TensorHeader)
        self.star.received(connection, message, payload)

    def lost(self, connection: Connection, error: TpidError) -> None:
        if hasattr(self, "star"):
            self.star.fail(error)


class Ours:
    def __init__(self) -> None:
        self._receiver = ToStar()
        self._connections: asyncio.Queue[Connection] = asyncio.Queue()
        self._listener: Listener | None = None
        self._hub: Connection | None = None
        self._leaves: list[Connection] = []
        self._n_ranks = 0
        self._term = 0

    @property
    def star(self) -> StarHub | StarLeaf:
        """Of the size that was begun, and in its first pass, the one of number 1."""
        return self._receiver.star

    async def join(self, rank: int, n_ranks: int, port: int) -> int:
        self._n_ranks = n_ranks
        settings = CommSettings()
        if rank == 0:
            self._listener = await Listener.listen(
                HOST, 0, hello=lambda: hello_of(0), accept=lambda _: None, on_connection=self._joined, settings=settings
            )
            return self._listener.port
        self._hub = await dial([(HOST, port)], lambda: hello_of(rank), settings)
        self._hub.set_receiver(self._receiver)
        return port

    async def begin(self, n_values: int) -> None:
        while self._hub is None and len(self._leaves) < self._n_ranks - 1:
            self._leaves.append(await self._connections.get())
        self._term += 1
        if self._hub is None:
            self._receiver.star = StarHub(
                self._term,
                dict(enumerate(self._leaves, 1)),
                hidden_size=n_values,
                max_tokens=1,
                wire_dtype=WireDtype.FP32,
            )
        else:
            self._receiver.star = StarLeaf(
                self._term, self._hub, hidden_size=n_values, max_tokens=1, wire_dtype=WireDtype.FP32
            )
        self._receiver.star.begin(1, 1)

    async def run(self, partial: np.ndarray, steps: int) -> list[float]:
        star, rows = self._receiver.star, partial[None]
        times_s = []
        for step in range(steps):
            begin_s = time.perf_counter()
            total = await star.reduce(step, rows)
            times_s.append(time.perf_counter() - begin_s)
        check(total, self._n_ranks)
        return times_s

    async def leave(self) -> None:
        for connection in [self._hub] if self._hub is not None else self._leaves:
            await connection.close("done")
        if self._listener is not None:
            await self._listener.close()

    def _joined(self, connection: Connection) -> None:
        connection.set_receiver(self._receiver)
        self._connections.put_nowait(connection)


class OursOverTls(Ours):
    async def join(self, rank: int, n_ranks: int, port: int) -> int:
        self._n_ranks = n_ranks
        self._tasks: list[asyncio.Task[None]] = []
        loop = asyncio.get_running_loop()
        if rank == 0:
            server = socket.create_server((HOST, 0))
            server.setblocking(False)
            self._tasks.append(asyncio.create_task(self._answer(server)))
            return int(server.getsockname()[1])
        sock = socket.socket()
        sock.setblocking(False)
        await loop.sock_connect(sock, (HOST, port))
        door = Door(pairing_client(), lambda _: True)
        channel = await dial_tls(sock, Purpose.PAIRING, door, peer_address=HOST, timeout_s=TLS_TIMEOUT_S)
        opened: asyncio.Future[Connection] = loop.create_future()
        self._connect(channel, Handshake(hello_of(rank), dialled=True, peer_address=HOST), opened.set_result)
        self._hub = await opened
        self._hub.set_receiver(self._receiver)
        return port

    async def _answer(self, server: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with server, tempfile.TemporaryDirectory() as directory:
            identity = load_or_create_identity(Path(directory))
            doors = {Purpose.PAIRING: Door(pairing_server(identity), lambda _: True)}
            for _ in range(self._n_ranks - 1):
                sock, _address = await loop.sock_accept(server)
                _, channel = await answer_tls(sock, doors, peer_address=HOST, timeout_s=TLS_TIMEOUT_S)
                handshake = Handshake(hello_of(0), dialled=False, peer_address=HOST)
                self._connect(channel, handshake, self._joined)

    def _connect(self, channel: TlsChannel, handshake: Handshake, on_open: Callable[[Connection], None]) -> None:
        Connection(channel, lambda _: handshake, CommSettings(), on_open=on_open, on_failed=_failed)


def _failed(_: Connection, error: TpidError) -> None:
    raise error


class Blocking:
    def __init__(self) -> None:
        self._server: socket.socket | None = None
        self._leaves: list[socket.socket] = []
        self._hub: socket.socket | None = None
        self._n_ranks = 0

    async def join(self, rank: int, n_ranks: int, port: int) -> int:
        self._n_ranks = n_ranks
        if rank == 0:
            self._server = socket.create_server((HOST, 0))
            return int(self._server.getsockname()[1])
        self._hub = socket.create_connection((HOST, port))
        self._hub.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return port

    async def begin(self, n_values: int) -> None:
        while self._server is not None and len(self._leaves) < self._n_ranks - 1:
            sock, _ = self._server.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._leaves.append(sock)

    async def run(self, partial: np.ndarray, steps: int) -> list[float]:
        frame, values = _frame(partial.size)
        out, sent = _frame(partial.size)
        times_s = []
        for _ in range(steps):
            begin_s = time.perf_counter()
            np.copyto(sent, partial)
            if self._hub is None:
                for sock in self._leaves:
                    _receive_exactly(sock, frame)
                    np.add(sent, values, out=sent)
                for sock in self._leaves:
                    sock.sendall(out)
            else:
                self._hub.sendall(out)
                _receive_exactly(self._hub, frame)
            times_s.append(time.perf_counter() - begin_s)
        check(sent if self._hub is None else values, self._n_ranks)
        return times_s

    async def leave(self) -> None:
        for sock in (self._server, self._hub, *self._leaves):
            if sock is not None:
                sock.close()


class Gloo:
    async def join(self, rank: int, n_ranks: int, port: int) -> int:
        import torch  # noqa: PLC0415 only here: seconds and 200 MB a process

        self._torch = torch
        torch.set_num_threads(1)
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        self._group = (rank, n_ranks)
        if rank == 0:
            with socket.create_server((HOST, 0)) as server:
                return int(server.getsockname()[1])
        return port

    async def meet(self, port: int) -> None:
        rank, n_ranks = self._group
        self._torch.distributed.init_process_group(
            "gloo", init_method=f"tcp://{HOST}:{port}", rank=rank, world_size=n_ranks
        )

    async def begin(self, n_values: int) -> None:
        return None

    async def run(self, partial: np.ndarray, steps: int) -> list[float]:
        tensor = self._torch.from_numpy(partial.copy())
        all_reduce = self._torch.distributed.all_reduce
        all_reduce(tensor)
        check(tensor.numpy(), self._group[1])
        tensor.zero_()  # it adds in place; a copy before each step would be timed
        times_s = []
        for _ in range(steps):
            begin_s = time.perf_counter()
            all_reduce(tensor)
            times_s.append(time.perf_counter() - begin_s)
        return times_s

    async def leave(self) -> None:
        self._torch.distributed.destroy_process_group()


WAYS: dict[str, type[Ours | Blocking | Gloo]] = {
    "ours": Ours,
    "tls": OursOverTls,
    "blocking": Blocking,
    "gloo": Gloo,
}


def serve(way: str, rank: int, n_ranks: int, core: int | None, pipe: Pipe) -> None:
    """A rank's process. On the pipe: a port in, a port out; then sizes in, times out, until None."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    uvloop.run(_serve(WAYS[way](), rank, n_ranks, pipe))


async def _serve(exchange: Ours | Blocking | Gloo, rank: int, n_ranks: int, pipe: Pipe) -> None:
    port = await exchange.join(rank, n_ranks, pipe.recv())
    pipe.send(port)
    if isinstance(exchange, Gloo):
        await exchange.meet(port)
    while (order := await asyncio.to_thread(pipe.recv)) is not None:  # heartbeats go on meanwhile
        payload_bytes, steps = order
        await exchange.begin(payload_bytes // 4)
        pipe.send("ready")
        pipe.send(await exchange.run(np.ones(payload_bytes // 4, np.float32), steps))
    await exchange.leave()


def check(total: np.ndarray, n_ranks: int) -> None:
    if not (total == n_ranks).all():
        raise ValueError("the sum is wrong")


def hello_of(rank: int) -> Hello:
    profile = DeviceProfile(
        DeviceId(f"{rank:064x}"), f"rank{rank}", Role.USER, "0", 2**33, 2**32, 2**36, 1, 1e9, "torch"
    )
    return Hello(cluster="benchmark", profile=profile)


def _frame(n_values: int) -> tuple[memoryview, np.ndarray]:
    """A frame, and its payload as numbers."""
    frame = memoryview(bytearray(HEAD_BYTES + 4 * n_values))
    return frame, np.frombuffer(frame[HEAD_BYTES:], np.float32)


def _receive_exactly(sock: socket.socket, buffer: memoryview) -> None:
    filled = 0
    while filled < len(buffer):
        n_bytes = sock.recv_into(buffer[filled:])
        if n_bytes == 0:
            raise ConnectionError("The other process is gone.")
        filled += n_bytes

"""Latency of the star allreduce on loopback, against the same exchange over blocking sockets.

    python benchmarks/allreduce.py [--quick] [--json]

Rank 0 is this process, each other rank a process of its own; ours runs under uvloop with real connections (hello,
heartbeats, frames), the other with plain `recv_into` and `sendall` of a 32-byte head and the payload. Both move
fp32 and add with numpy. Rounds of the two are interleaved, because the machine's mood changes within a run: compare
within a row, and trust the median of the rounds' ratios more than the quotient of the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import socket
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import uvloop

from tpid.comm.connection import Connection
from tpid.comm.frames import Header
from tpid.comm.listener import Listener, dial
from tpid.comm.messages import Hello, Kind
from tpid.comm.settings import CommSettings
from tpid.comm.star import StarHub, StarLeaf
from tpid.comm.tensors import StartHeader, TensorHeader
from tpid.comm.wire_dtype import WireDtype
from tpid.device import DeviceId, DeviceProfile, Role
from tpid.errors import TpidError

PAYLOADS_BYTES = (4096, 8192, 16384, 32768, 65536, 131072)
RANKS = (2, 4)
HEAD_BYTES = 32
SETTINGS = CommSettings(silence_timeout_s=30.0)  # the loop stands still while the blocking rounds run


@dataclass(frozen=True, slots=True)
class Row:
    ranks: int
    payload_bytes: int
    ours_us: float  # median of an exchange
    blocking_us: float
    ratio: float  # median over rounds of ours / blocking


@dataclass(frozen=True, slots=True)
class Effort:
    rounds: int
    steps: int  # exchanges a round and kind


def hello_of(rank: int) -> Hello:
    profile = DeviceProfile(
        DeviceId(f"{rank:032x}"), f"rank{rank}", Role.USER, "0", 2**33, 2**32, 2**36, 1, 1e9, "torch"
    )
    return Hello(cluster="benchmark", profile=profile)


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
        self.star.fail(error)


def receive_exactly(sock: socket.socket, buffer: memoryview) -> None:
    filled = 0
    while filled < len(buffer):
        n_bytes = sock.recv_into(buffer[filled:])
        if n_bytes == 0:
            raise ConnectionError("The other process is gone.")
        filled += n_bytes


def blocking_hub(socks: list[socket.socket], partial: np.ndarray, steps: int) -> list[float]:
    frame = memoryview(bytearray(HEAD_BYTES + partial.nbytes))
    values = np.frombuffer(frame[HEAD_BYTES:], np.float32)
    out = memoryview(bytearray(HEAD_BYTES + partial.nbytes))
    total = np.frombuffer(out[HEAD_BYTES:], np.float32)
    times_s = []
    for _ in range(steps):
        begin_s = time.perf_counter()
        np.copyto(total, partial)
        for sock in socks:
            receive_exactly(sock, frame)
            np.add(total, values, out=total)
        for sock in socks:
            sock.sendall(out)
        times_s.append(time.perf_counter() - begin_s)
    return times_s


def blocking_leaf(sock: socket.socket, partial: np.ndarray, steps: int) -> None:
    frame = memoryview(bytearray(HEAD_BYTES + partial.nbytes))
    out = memoryview(bytearray(HEAD_BYTES + partial.nbytes))
    values = np.frombuffer(out[HEAD_BYTES:], np.float32)
    for _ in range(steps):
        np.copyto(values, partial)
        sock.sendall(out)
        receive_exactly(sock, frame)


async def run_steps(star: StarHub | StarLeaf, pass_id: int, partial: np.ndarray, steps: int) -> list[float]:
    star.begin(pass_id, 1)
    times_s = []
    for step in range(steps):
        begin_s = time.perf_counter()
        await star.reduce(step, partial)
        times_s.append(time.perf_counter() - begin_s)
    return times_s


async def leaf_process(rank: int, port: int, blocking_port: int, effort: Effort) -> None:
    connection = await dial("127.0.0.1", port, lambda: hello_of(rank), SETTINGS)
    receiver = ToStar()
    sock = socket.create_connection(("127.0.0.1", blocking_port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.set_receiver(receiver)
    for term, payload_bytes in enumerate(PAYLOADS_BYTES):
        partial = np.ones((1, payload_bytes // 4), np.float32)
        receiver.star = StarLeaf(term, connection, hidden_size=partial.size, max_tokens=1, wire_dtype=WireDtype.FP32)
        for pass_id in range(effort.rounds):
            await asyncio.to_thread(receive_exactly, sock, memoryview(bytearray(1)))  # the hub has begun
            await run_steps(receiver.star, pass_id, partial, effort.steps)
            blocking_leaf(sock, partial[0], effort.steps)
    await connection.close("done")


def start_leaf(rank: int, port: int, blocking_port: int, effort: Effort) -> None:
    uvloop.run(leaf_process(rank, port, blocking_port, effort))


async def measure(n_ranks: int, effort: Effort, show: Callable[[Row], None]) -> list[Row]:
    arrived: asyncio.Queue[Connection] = asyncio.Queue()
    receiver = ToStar()

    def on_connection(connection: Connection) -> None:
        connection.set_receiver(receiver)
        arrived.put_nowait(connection)

    listener = await Listener.listen(
        "127.0.0.1", 0, hello=lambda: hello_of(0), accept=lambda _: None, on_connection=on_connection, settings=SETTINGS
    )
    server = socket.create_server(("127.0.0.1", 0))
    context = multiprocessing.get_context("spawn")
    blocking_port = server.getsockname()[1]
    leaves = [
        context.Process(target=start_leaf, args=(rank, listener.port, blocking_port, effort))
        for rank in range(1, n_ranks)
    ]
    for leaf in leaves:
        leaf.start()
    connections = [await arrived.get() for _ in leaves]
    socks = [server.accept()[0] for _ in leaves]
    for sock in socks:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    rows = []
    for term, payload_bytes in enumerate(PAYLOADS_BYTES):
        row = await measure_size(payload_bytes, term, receiver, (connections, socks), effort)
        show(row)
        rows.append(row)
    for connection in connections:
        await connection.close("done")
    await listener.close()
    for leaf in leaves:
        await asyncio.to_thread(leaf.join)
    return rows


async def measure_size(
    payload_bytes: int,
    term: int,
    receiver: ToStar,
    links: tuple[list[Connection], list[socket.socket]],
    effort: Effort,
) -> Row:
    connections, socks = links
    partial = np.ones((1, payload_bytes // 4), np.float32)
    star = StarHub(
        term,
        dict(enumerate(connections, 1)),
        hidden_size=partial.size,
        max_tokens=1,
        wire_dtype=WireDtype.FP32,
    )
    receiver.star = star
    ours_s: list[float] = []
    blocking_s: list[float] = []
    ratios = []
    for pass_id in range(effort.rounds):
        star_pass = asyncio.ensure_future(run_steps(star, pass_id, partial, effort.steps))
        await asyncio.sleep(0)  # until begin was called
        for sock in socks:
            sock.sendall(b"g")
        ours = await star_pass
        blocking = blocking_hub(socks, partial[0], effort.steps)
        if pass_id > 0:  # the first round warms up
            ours_s += ours
            blocking_s += blocking
            ratios.append(statistics.median(ours) / statistics.median(blocking))
    return Row(
        len(socks) + 1,
        payload_bytes,
        statistics.median(ours_s) * 1e6,
        statistics.median(blocking_s) * 1e6,
        statistics.median(ratios),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of a table")
    parser.add_argument("--quick", action="store_true", help="a few seconds; the numbers swing more")
    arguments = parser.parse_args()
    effort = Effort(rounds=4, steps=100) if arguments.quick else Effort(rounds=21, steps=200)

    def show(row: Row) -> None:
        if not arguments.json:
            print(
                f"{row.ranks:5} {row.payload_bytes:8} {row.ours_us:9.1f} {row.blocking_us:12.1f} {row.ratio:6.2f}",
                flush=True,
            )

    if not arguments.json:
        print("ranks    bytes   ours us  blocking us  ratio")
    rows = [row for n_ranks in RANKS for row in uvloop.run(measure(n_ranks, effort, show))]
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))


if __name__ == "__main__":
    main()

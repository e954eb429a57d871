"""A stream over real TCP on 127.0.0.1, in plain and over TLS, under the plain loop and under uvloop."""

import asyncio
import os
import resource
import socket
import struct
import threading
import time

import pytest
import uvloop

from tests.integration.stream_ends import FOREVER_S, End, Form, Run, end, pair, read_all, within_a_minute
from tpid.comm import listener as listener_module
from tpid.comm.listener import Listener
from tpid.comm.messages import Hello
from tpid.comm.settings import CommSettings
from tpid.comm.stream import Stream
from tpid.device import DeviceId, DeviceProfile, Role


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    return within_a_minute(request.param)


@pytest.fixture(params=list(Form), ids=lambda form: form.value)
def form(request: pytest.FixtureRequest) -> Form:
    return request.param


def test_what_is_written_leaves_at_once(run: Run, form: Form) -> None:
    async def test() -> None:
        async with pair(form) as (stream, _, theirs):
            stream.write(b"head", memoryview(b"payload"))
            assert theirs.recv(100) == b"headpayload"
            theirs.sendall(b"answer")
            assert stream.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    run(test())


def test_the_loop_receives_while_nobody_waits(run: Run, form: Form) -> None:
    async def test() -> None:
        async with pair(form) as (_, owner, theirs):
            theirs.sendall(b"x")
            await owner.more.wait()
            assert owner.received == b"x"

    run(test())


def test_who_waits_receives_without_the_loop(run: Run, form: Form) -> None:
    async def test() -> None:
        async with pair(form) as (stream, owner, theirs):
            assert not stream.receive(time.perf_counter())
            assert not stream.receive(time.perf_counter() + 0.001)
            theirs.sendall(b"here")
            assert stream.receive(FOREVER_S)
            assert owner.received == b"here"
            sender = threading.Timer(0.003, theirs.sendall, [b"later"])  # by then the stream sleeps, if it may
            sender.start()
            while owner.received != b"herelater":
                assert stream.receive(time.perf_counter() + 60)
            sender.join()

    run(test())


def test_a_core_that_others_want_is_left_to_them(run: Run, form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a yield that took long, the next waits sleep: ever more of them."""

    async def test() -> None:
        n_yields = 0

        def crowded() -> None:
            nonlocal n_yields
            n_yields += 1
            time.sleep(100e-6)

        def waits(stream: Stream, theirs: End) -> int:
            nonlocal n_yields
            n_yields = 0
            for _ in range(40):
                assert not stream.receive(time.perf_counter() + 5e-3)
            return n_yields

        async with pair(form) as (stream, owner, theirs):
            monkeypatch.setattr(os, "sched_yield", crowded)
            assert waits(stream, theirs) == 6  # between them 1, 2, 4, 8 and 16 that sleep
            assert waits(stream, theirs) == 1
            theirs.sendall(b"x")
            assert stream.receive(FOREVER_S)
            assert owner.received == b"x"

    run(test())


def test_a_paused_stream_is_not_read(run: Run, form: Form) -> None:
    async def test() -> None:
        async with pair(form) as (stream, owner, theirs):
            stream.pause_reading()
            theirs.sendall(b"x")
            assert not stream.receive(FOREVER_S)
            await asyncio.sleep(0)
            assert owner.received == b""
            stream.resume_reading()
            assert stream.receive(FOREVER_S)

    run(test())


def test_more_than_the_socket_takes(run: Run, form: Form) -> None:
    async def test() -> None:
        data = os.urandom(24 * 2**20)
        async with pair(form, write_pause_bytes=2**16) as (stream, owner, theirs):
            reading = asyncio.create_task(asyncio.to_thread(read_all, theirs))
            stream.write(data[:100], memoryview(data)[100:-5])
            assert stream.unsent_bytes > 0
            stream.write(data[-5:])
            stream.close()
            stream.write(b"too late")
            assert await reading == data
            assert await owner.end is None
            assert stream.unsent_bytes == 0
            assert owner.calls == ["pause", "resume"]

    run(test())


def test_flush_sends_without_the_loop(run: Run, form: Form) -> None:
    async def test() -> None:
        data = os.urandom(24 * 2**20)
        async with pair(form) as (stream, _, theirs):
            stream.write(data)
            stream.flush(0.001)  # nobody reads
            assert stream.unsent_bytes > 0
            received: list[bytes] = []
            reader = threading.Thread(target=lambda: received.append(read_all(theirs)))
            reader.start()
            stream.flush(FOREVER_S)
            assert stream.unsent_bytes == 0
            stream.end_writing()
            reader.join()
            assert received == [data]

    run(test())


def test_who_waits_for_an_answer_sends_the_rest_of_the_question(run: Run, form: Form) -> None:
    async def test() -> None:
        data = os.urandom(24 * 2**20)

        def answer(sock: socket.socket) -> None:
            n_bytes = 0
            while n_bytes < len(data):
                n_bytes += len(sock.recv(2**20))
            sock.sendall(b"answer")

        async with pair(form) as (stream, owner, theirs):
            peer = threading.Thread(target=answer, args=[theirs])
            peer.start()
            stream.write(data)
            assert stream.receive(time.perf_counter() + 60)
            assert owner.received == b"answer"
            peer.join()

    run(test())


@pytest.mark.parametrize("waits", [False, True])
def test_the_end_of_the_peer(run: Run, form: Form, waits: bool) -> None:
    async def test() -> None:
        async with pair(form) as (stream, owner, theirs):
            ending = threading.Thread(target=end, args=[theirs])
            ending.start()
            if waits:
                assert stream.receive(FOREVER_S)
            assert await owner.end is None
            assert owner.eof
            assert stream.is_closing
            assert not stream.receive(FOREVER_S)
            await asyncio.to_thread(ending.join)

    run(test())


@pytest.mark.parametrize("how", ["loop", "receive", "write"])
def test_a_reset(run: Run, form: Form, how: str) -> None:
    async def test() -> None:
        async with pair(form) as (stream, owner, theirs):
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            theirs.close()
            if how == "receive":
                stream.receive(FOREVER_S)
            elif how == "write":
                stream.write(b"x")
            if how != "loop":
                assert stream.is_closing
            assert isinstance(await owner.end, ConnectionError)

    run(test())


@pytest.mark.parametrize("waits", [False, True])
def test_a_bug_of_the_owner_is_reported_and_not_raised(run: Run, form: Form, waits: bool) -> None:
    async def test() -> None:
        reported: asyncio.Queue[BaseException | None] = asyncio.Queue()
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: reported.put_nowait(context.get("exception"))
        )
        async with pair(form) as (stream, owner, theirs):
            owner.bug = ZeroDivisionError()
            theirs.sendall(b"x")
            if waits:
                assert stream.receive(FOREVER_S)
            assert await reported.get() is owner.bug
            assert await owner.end is None

    run(test())


def test_this_side_ends_its_half_and_reads_on(run: Run, form: Form) -> None:
    async def test() -> None:
        async with pair(form) as (stream, owner, theirs):
            stream.write(b"last")
            stream.end_writing()
            stream.write(b"too late")
            assert read_all(theirs) == b"last"
            theirs.sendall(b"still here")
            await owner.more.wait()
            assert owner.received == b"still here"

    run(test())


def test_a_listener_without_descriptors_tries_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "_EXHAUSTED_WAIT_S", 0.01)
    refused = asyncio.Event()

    class Telltale:
        def warning(self, *_: object) -> None:
            refused.set()

        def info(self, *_: object) -> None:
            return None

    monkeypatch.setattr(listener_module, "_logger", Telltale())
    profile = DeviceProfile(DeviceId("0" * 64), "a", Role.USER, "0", 2**33, 2**32, 2**36, 1, 1e9, "torch")

    async def test() -> None:
        listening = await Listener.listen(
            "127.0.0.1",
            0,
            hello=lambda: Hello(cluster="home", profile=profile),
            accept=lambda _: None,
            on_connection=lambda _: None,
            settings=CommSettings(hello_timeout_s=0.1),
        )
        with socket.socket() as theirs:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            highest = max(int(name) for name in os.listdir("/proc/self/fd"))
            fillers = [socket.dup(theirs.fileno()) for _ in range(3)]
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
            try:
                while True:  # the gaps below
                    try:
                        fillers.append(socket.dup(theirs.fileno()))
                    except OSError:
                        break
                theirs.setblocking(False)
                await asyncio.get_running_loop().sock_connect(theirs, ("127.0.0.1", listening.port))
                await refused.wait()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for filler in fillers:
                    os.close(filler)
            assert await asyncio.get_running_loop().sock_recv(theirs, 1) == b""  # accepted, and no hello came
        await listening.close()

    run(test())

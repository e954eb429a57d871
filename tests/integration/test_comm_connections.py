"""Connections over real TCP on 127.0.0.1, under the plain loop and under uvloop."""

import asyncio
import random
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import uvloop

from tpid.comm.connection import Connection
from tpid.comm.dialling import dial
from tpid.comm.frames import PREFIX, Header, encode_message, encode_tensor_head
from tpid.comm.listener import MAX_OPENING_OF_SOURCE, Listener
from tpid.comm.messages import Bye, Device, Failed, Hello, Kind, Loaded, Message, Pong, Renew
from tpid.comm.settings import CommSettings
from tpid.comm.star import StarHub, StarLeaf
from tpid.comm.tensors import StartHeader, TensorHeader
from tpid.comm.wire_dtype import WireDtype
from tpid.device import DeviceId, DeviceProfile, Role
from tpid.errors import (
    BusyError,
    ConfigError,
    DeviceLostError,
    ListenError,
    RefusedError,
    RemoteProtocolError,
    TpidError,
    VersionMismatchError,
)

HOST = "127.0.0.1"
SETTINGS = CommSettings()
IMPATIENT = CommSettings(hello_timeout_s=0.1, ping_interval_s=0.05, silence_timeout_s=0.3, close_timeout_s=0.1)
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    runner = request.param

    async def with_deadline(test: Coroutine[Any, Any, None]) -> None:
        async with asyncio.timeout(60):
            await test
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not others, "tasks were left behind"

    return lambda test: runner(with_deadline(test))


def hello_of(number: int, cluster: str = "home") -> Hello:
    profile = DeviceProfile(
        DeviceId(f"{number:064x}"), f"device-{number}", Role.USER, "0.1", 2**34, 2**33, 2**36, 4, 1e9, "torch"
    )
    return Hello(cluster=cluster, profile=profile)


class Recorder:
    """Keeps all that comes, in queues that a test can wait on."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[tuple[Kind, Header, bytes | None]] = asyncio.Queue()
        self.ends: asyncio.Queue[TpidError] = asyncio.Queue()
        self.asked: list[int] = []

    def payload_buffer(
        self, connection: Connection, kind: Kind, header: StartHeader | TensorHeader, size_bytes: int
    ) -> memoryview | None:
        self.asked.append(size_bytes)
        return memoryview(bytearray(size_bytes))

    def received(self, connection: Connection, kind: Kind, message: Header, payload: memoryview | None) -> None:
        self.messages.put_nowait((kind, message, None if payload is None else bytes(payload)))

    def lost(self, connection: Connection, error: TpidError) -> None:
        self.ends.put_nowait(error)


class Home:
    """Device 0 with a listener; each connection gets a recorder."""

    def __init__(self, settings: CommSettings) -> None:
        self.settings = settings
        self.arrivals: asyncio.Queue[tuple[Connection, Recorder]] = asyncio.Queue()
        self.refusal: TpidError | None = None
        self.listener: Listener

    @property
    def port(self) -> int:
        return self.listener.port

    async def listen(self, port: int = 0) -> None:
        self.listener = await Listener.listen(
            HOST,
            port,
            hello=lambda: hello_of(0),
            accept=self._accept,
            on_connection=self._arrived,
            settings=self.settings,
        )

    async def joined_by(
        self, number: int = 1, settings: CommSettings | None = None
    ) -> tuple[Connection, Recorder, Connection, Recorder]:
        """A device that dials, and what this side sees of it."""
        theirs = await dial([(HOST, self.port)], lambda: hello_of(number), settings or self.settings)
        their_recorder = Recorder()
        theirs.set_receiver(their_recorder)
        ours, our_recorder = await self.arrivals.get()
        return ours, our_recorder, theirs, their_recorder

    def _accept(self, _: Hello) -> None:
        if self.refusal is not None:
            raise self.refusal

    def _arrived(self, connection: Connection) -> None:
        recorder = Recorder()
        connection.set_receiver(recorder)
        self.arrivals.put_nowait((connection, recorder))


@asynccontextmanager
async def home(settings: CommSettings = SETTINGS) -> AsyncIterator[Home]:
    device = Home(settings)
    await device.listen()
    yield device
    await device.listener.close()


class Stranger:
    """A bare TCP stream, for what our own code would never send."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def at(cls, port: int) -> "Stranger":
        return cls(*await asyncio.open_connection(HOST, port))

    async def frame(self) -> tuple[int, int, bytes]:
        """Version, kind and header."""
        _, version, kind, header_bytes, payload_bytes = PREFIX.unpack(await self.reader.readexactly(PREFIX.size))
        assert payload_bytes == 0
        return version, kind, await self.reader.readexactly(header_bytes)

    async def join(self, number: int = 1) -> None:
        self.writer.write(encode_message(hello_of(number)))
        assert (await self.frame())[1] == Kind.HELLO

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.close()

    async def is_shut(self) -> None:
        """Wait until the other side has ended it."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass
        self.writer.close()


@asynccontextmanager
async def raw_server(serve: Callable[[Stranger], Coroutine[Any, Any, None]]) -> AsyncIterator[int]:
    """A listener of which every byte is the test's; errors in `serve` fail the test."""
    clients: asyncio.Queue[Stranger] = asyncio.Queue()
    server = await asyncio.start_server(lambda *streams: clients.put_nowait(Stranger(*streams)), HOST, 0)

    async def serve_one() -> None:
        await serve(await clients.get())

    async with asyncio.TaskGroup() as group:
        group.create_task(serve_one())
        yield server.sockets[0].getsockname()[1]
        server.close()


# The hello


def congestion_control(sock: socket.socket) -> str:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()


def test_two_devices_meet_and_part(run: Run) -> None:
    async def test() -> None:
        async with home() as device:
            ours, our_recorder, theirs, their_recorder = await device.joined_by(1)
            assert ours.peer == hello_of(1).profile
            assert theirs.peer == hello_of(0).profile
            assert (ours.outgoing, theirs.outgoing) == (False, True)
            assert theirs.peer_address == f"{HOST}:{device.port}"
            for connection in (ours, theirs):
                sock = connection._stream.sock
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert congestion_control(sock) in ("cubic", "reno")  # not one that paces
            ours.send(Renew(term=7))
            theirs.send(Loaded(term=7, held_bytes=9))
            assert await their_recorder.messages.get() == (Kind.RENEW, Renew(term=7), None)
            assert await our_recorder.messages.get() == (Kind.LOADED, Loaded(term=7, held_bytes=9), None)
            await theirs.close("Time to sleep.")
            end = await our_recorder.ends.get()
            assert isinstance(end, DeviceLostError)
            assert end.message.startswith("Device device-1 at 127.0.0.1:")
            assert end.message.endswith(" left: Time to sleep.")
            assert "This device closed" in (await their_recorder.ends.get()).message
            for connection in (ours, theirs):
                assert connection.closed
                with pytest.raises(DeviceLostError, match="Time to sleep"):
                    connection.send(Renew(term=8))
            assert our_recorder.ends.empty()
            assert their_recorder.ends.empty()

    run(test())


def test_frames_wait_for_the_receiver(run: Run) -> None:
    async def test() -> None:
        async with home() as device:
            theirs = await dial([(HOST, device.port)], lambda: hello_of(1), SETTINGS)
            ours, _ = await device.arrivals.get()
            sent = [Renew(term=term) for term in range(100)]
            for message in sent:
                ours.send(message)
            closing = asyncio.create_task(ours.close("Said all."))
            await asyncio.sleep(0)
            recorder = Recorder()
            theirs.set_receiver(recorder)
            await closing
            assert "Said all." in (await recorder.ends.get()).message
            assert [recorder.messages.get_nowait()[1] for _ in sent] == sent

    run(test())


def test_another_cluster(run: Run) -> None:
    async def test() -> None:
        async with home() as device:
            with pytest.raises(RefusedError, match="'work'") as caught:
                await dial([(HOST, device.port)], lambda: hello_of(1, "work"), SETTINGS)
            assert caught.value.reason_code == "other_cluster"
            await device.joined_by(2)

    run(test())


def test_itself(run: Run) -> None:
    async def test() -> None:
        async with home() as device:
            with pytest.raises(RefusedError) as caught:
                await dial([(HOST, device.port)], lambda: hello_of(0), SETTINGS)
            assert caught.value.reason_code == "self"

    run(test())


def test_the_owner_refuses(run: Run) -> None:
    async def test() -> None:
        async with home() as device:
            device.refusal = BusyError("There is a connection already.")
            with pytest.raises(RefusedError, match="There is a connection already") as caught:
                await dial([(HOST, device.port)], lambda: hello_of(1), SETTINGS)
            assert caught.value.reason_code == "busy"
            assert device.arrivals.empty()

    run(test())


def test_a_device_of_version_3_dials_us(run: Run) -> None:
    async def test() -> None:
        async with home() as device:
            stranger = await Stranger.at(device.port)
            stranger.writer.write(PREFIX.pack(b"TP", 3, Kind.HELLO, 4, 0) + b"\xff\xff\xff\xff")
            version, kind, header = await stranger.frame()
            assert (version, kind) == (2, Kind.REFUSE)
            assert b"version_mismatch" in header
            await stranger.is_shut()
            await device.joined_by(1)

    run(test())


def test_we_dial_a_device_of_version_3(run: Run) -> None:
    async def serve(stranger: Stranger) -> None:
        assert (await stranger.frame())[:2] == (2, Kind.HELLO)
        stranger.writer.write(PREFIX.pack(b"TP", 3, Kind.REFUSE, 2, 0) + b"??")
        assert (await stranger.frame())[:2] == (2, Kind.REFUSE)
        await stranger.is_shut()

    async def test() -> None:
        async with raw_server(serve) as port:
            with pytest.raises(VersionMismatchError) as caught:
                await dial([(HOST, port)], lambda: hello_of(1), SETTINGS)
            assert f"{HOST}:{port} speaks version 3" in caught.value.message
            assert "version 2" in caught.value.message
            assert caught.value.hint == "Upgrade tpid on this device."

    run(test())


def test_nobody_is_there(run: Run) -> None:
    async def test() -> None:
        with socket.socket() as bound:  # bound, but does not listen
            bound.bind((HOST, 0))
            port = bound.getsockname()[1]
            with pytest.raises(DeviceLostError, match=f"{HOST}:{port} cannot be reached"):
                await dial([(HOST, port)], lambda: hello_of(1), SETTINGS)

    run(test())


def test_somebody_is_there_and_says_nothing(run: Run) -> None:
    async def test() -> None:
        async with raw_server(Stranger.is_shut) as port:
            with pytest.raises(DeviceLostError, match=r"did not say hello within 0\.1 s"):
                await dial([(HOST, port)], lambda: hello_of(1), IMPATIENT)

    run(test())


def test_of_two_ways_the_quicker_one_is_taken_whichever_is_named_first(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        connect = loop.sock_connect

        async def over_the_air_slowly(sock: socket.socket, address: tuple[str, int]) -> None:
            if address[1] == air.port:
                await asyncio.sleep(0.05)
            await connect(sock, address)

        async with home() as air, home() as wire:
            monkeypatch.setattr(loop, "sock_connect", over_the_air_slowly)
            connection = await dial([(HOST, air.port), (HOST, wire.port)], lambda: hello_of(2), SETTINGS)
            assert connection.peer_address == f"{HOST}:{wire.port}"
            connection.set_receiver(Recorder())
            await connection.close("done")

    asyncio.run(test())


def test_dialling_may_be_cancelled(run: Run) -> None:
    gone = asyncio.Event()

    async def serve(stranger: Stranger) -> None:
        await stranger.frame()
        task.cancel()
        await stranger.is_shut()
        gone.set()

    task: asyncio.Task[Connection]

    async def test() -> None:
        nonlocal task
        async with raw_server(serve) as port:
            task = asyncio.create_task(dial([(HOST, port)], lambda: hello_of(1), SETTINGS))
            with pytest.raises(asyncio.CancelledError):
                await task
            await gone.wait()

    run(test())


# The listener


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        bytes(100_000),
        b"TP",
        PREFIX.pack(b"TP", 2, Kind.HELLO, 2**32 - 1, 0),
        PREFIX.pack(b"TP", 2, Kind.HELLO, 3, 0) + b"\xc1\xc1\xc1",
        PREFIX.pack(b"TP", 2, Kind.PARTIAL, 10, 2**20),
        encode_message(Bye(reason="never mind")),
        encode_message(Pong(sent_s=1)),
    ],
)
def test_garbage_does_no_harm(run: Run, garbage: bytes) -> None:
    async def test() -> None:
        async with home(IMPATIENT) as device:
            stranger = await Stranger.at(device.port)
            stranger.writer.write(garbage)
            await stranger.is_shut()
            ours, _, _, their_recorder = await device.joined_by(1)
            ours.send(Renew(term=1))
            assert await their_recorder.messages.get() == (Kind.RENEW, Renew(term=1), None)

    run(test())


def test_port_in_use(run: Run) -> None:
    async def test() -> None:
        async with home() as device:
            with pytest.raises(ListenError, match=f"Port {device.port} on {HOST} is in use") as caught:
                await Home(SETTINGS).listen(device.port)
            assert caught.value.hint is not None
            port = device.port
        again = Home(SETTINGS)
        await again.listen(port)
        assert again.port == port
        await again.listener.close()

    run(test())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.invalid"])
def test_only_loopback_while_nothing_is_encrypted(run: Run, host: str) -> None:
    async def test() -> None:
        with pytest.raises(ConfigError, match="without TLS"):
            await dial([(host, 1)], lambda: hello_of(1), SETTINGS)
        with pytest.raises(ConfigError, match="without TLS"):
            await Listener.listen(
                host,
                0,
                hello=lambda: hello_of(1),
                accept=lambda _: None,
                on_connection=lambda _: None,
                settings=SETTINGS,
            )

    run(test())


def test_strangers_are_few_and_the_one_that_was_quiet_for_longest_gives_way(run: Run) -> None:
    async def test() -> None:
        async with home() as device:
            strangers = [await Stranger.at(device.port) for _ in range(MAX_OPENING_OF_SOURCE)]
            shut = [asyncio.ensure_future(stranger.is_shut()) for stranger in strangers]
            await device.joined_by()
            await shut[0]
            assert not any(other.done() for other in shut[1:])
            strangers[1].reset()
            await device.listener.close()  # cuts the others: run() would find their tasks otherwise
            await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()} - {outer_task}))

    outer_task: asyncio.Task[None] | None = None

    async def outer() -> None:
        nonlocal outer_task
        outer_task = asyncio.current_task()
        await test()

    run(outer())


def test_closing_the_listener_leaves_what_is_up(run: Run) -> None:
    async def test() -> None:
        async with home() as device:
            ours, _, _, their_recorder = await device.joined_by(1)
            stranger = await Stranger.at(device.port)
            await device.joined_by(2)  # by now the stranger has been accepted
            await device.listener.close()
            await stranger.is_shut()
            ours.send(Renew(term=1))
            assert (await their_recorder.messages.get())[0] is Kind.RENEW

    run(test())


# The end of a connection


def test_a_reset_is_noticed_at_once(run: Run) -> None:
    async def test() -> None:
        async with home() as device:
            stranger = await Stranger.at(device.port)
            await stranger.join()
            ours, recorder = await device.arrivals.get()
            begin_s = time.monotonic()
            stranger.reset()
            end = await recorder.ends.get()
            assert isinstance(end, DeviceLostError)
            assert "device device-1" in end.message
            assert "was reset" in end.message
            assert time.monotonic() - begin_s < SETTINGS.silence_timeout_s  # it was not the silence
            assert ours.closed

    run(test())


@pytest.mark.parametrize(("rest", "match"), [(b"", "without a goodbye"), (b"TP", "in the middle of a frame")])
def test_an_end_without_a_goodbye(run: Run, rest: bytes, match: str) -> None:
    async def test() -> None:
        async with home() as device:
            stranger = await Stranger.at(device.port)
            await stranger.join()
            _, recorder = await device.arrivals.get()
            stranger.writer.write(rest)
            stranger.writer.write_eof()  # not close: with a ping unread, that would be a reset
            assert match in (await recorder.ends.get()).message
            await stranger.is_shut()

    run(test())


def test_silence_is_noticed(run: Run) -> None:
    async def test() -> None:
        async with home(IMPATIENT) as device:
            stranger = await Stranger.at(device.port)
            await stranger.join()
            _, recorder = await device.arrivals.get()
            end = await recorder.ends.get()
            assert isinstance(end, DeviceLostError)
            assert "Device device-1" in end.message
            assert "has been silent for 0.3" in end.message
            await stranger.is_shut()

    run(test())


def test_any_byte_is_a_sign_of_life(run: Run) -> None:
    """A large payload that trickles in keeps the connection, though no whole frame comes."""

    async def test() -> None:
        async with home(IMPATIENT) as device:
            stranger = await Stranger.at(device.port)
            await stranger.join()
            _, recorder = await device.arrivals.get()
            head = encode_tensor_head(Kind.SUM, TensorHeader(1, 1, 0, 1, WireDtype.FP32), 12)
            for byte in head + bytes(11):
                stranger.writer.write(bytes([byte]))
                assert (await stranger.frame())[1] == Kind.PING  # one interval has gone by
            assert recorder.ends.empty()
            stranger.writer.write(b"\0")
            assert (await recorder.messages.get())[2] == bytes(12)
            stranger.reset()
            await recorder.ends.get()

    run(test())


def test_a_loop_that_stood_still_does_not_take_itself_for_silence(run: Run) -> None:
    async def test() -> None:
        async with home(IMPATIENT) as device:
            stranger = await Stranger.at(device.port)
            await stranger.join()
            _, recorder = await device.arrivals.get()
            stranger.writer.write(encode_message(Renew(term=1)))
            time.sleep(2 * IMPATIENT.silence_timeout_s)  # noqa: ASYNC251 the very thing that is tested
            assert (await recorder.messages.get())[1] == Renew(term=1)
            assert recorder.ends.empty()
            stranger.reset()
            await recorder.ends.get()

    run(test())


def test_heartbeats_measure_the_round_trip(run: Run) -> None:
    async def test() -> None:
        async with home(IMPATIENT) as device:
            ours, _, theirs, _ = await device.joined_by(1)
            while ours.rtt_s is None or theirs.rtt_s is None:  # noqa: ASYNC110 no event tells of it
                await asyncio.sleep(IMPATIENT.ping_interval_s)
            assert 0 <= ours.rtt_s < IMPATIENT.silence_timeout_s

    run(test())


def test_abort_and_close_tell_the_receiver_once(run: Run) -> None:
    async def test() -> None:
        async with home() as device:
            ours, our_recorder, theirs, their_recorder = await device.joined_by(1)
            error = DeviceLostError("Not needed any more.")
            ours.abort(error)
            assert our_recorder.ends.empty()  # never from within the call
            await ours.close("again")
            ours.abort(DeviceLostError("and again"))
            assert await our_recorder.ends.get() is error
            await their_recorder.ends.get()
            await theirs.close("late")
            assert our_recorder.ends.empty()
            assert their_recorder.ends.empty()

    run(test())


# What peers may not do


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (PREFIX.pack(b"TP", 2, Kind.SUM, 8, SETTINGS.max_payload_bytes + 1), "268435457 bytes"),
        (PREFIX.pack(b"TP", 2, Kind.LOAD, 2**20, 0), "1048576 bytes"),
        (PREFIX.pack(b"XX", 1, Kind.LOAD, 1, 0), "not a frame"),
        (PREFIX.pack(b"TP", 2, 200, 1, 0), "number 200"),
        (encode_message(hello_of(1)), "second hello"),
        (encode_message(Device(profile=hello_of(5).profile)), "device id changed"),
    ],
)
def test_who_breaks_the_protocol_is_told_and_cut(run: Run, data: bytes, match: str) -> None:
    async def test() -> None:
        async with home(IMPATIENT) as device:
            stranger = await Stranger.at(device.port)
            await stranger.join()
            _, recorder = await device.arrivals.get()
            stranger.writer.write(data)
            end = await recorder.ends.get()
            assert isinstance(end, RemoteProtocolError)
            assert "Device device-1 at 127.0.0.1:" in end.message
            assert match in end.message
            assert recorder.asked == []  # no memory was taken
            kind = Kind.PING
            while kind is Kind.PING:
                _, number, header = await stranger.frame()
                kind = Kind(number)
            assert kind is Kind.BYE
            assert match.encode() in header
            await stranger.is_shut()

    run(test())


def test_what_the_receiver_refuses(run: Run) -> None:
    class Picky(Recorder):
        def received(self, connection: Connection, kind: Kind, message: Header, payload: memoryview | None) -> None:
            raise RemoteProtocolError("I never asked for that.")

    async def test() -> None:
        async with home() as device:
            ours, our_recorder, theirs, _ = await device.joined_by(1)
            picky = Picky()
            theirs.set_receiver(picky)
            ours.send(Renew(term=1))
            assert "I never asked for that." in (await picky.ends.get()).message
            assert "left: I never asked for that." in (await our_recorder.ends.get()).message

    run(test())


def test_a_bug_in_a_receiver_ends_the_connection_and_is_reported(run: Run) -> None:
    class Buggy(Recorder):
        def received(self, connection: Connection, kind: Kind, message: Header, payload: memoryview | None) -> None:
            raise ZeroDivisionError("oops")

    async def test() -> None:
        reported: asyncio.Queue[BaseException | None] = asyncio.Queue()
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: reported.put_nowait(context.get("exception"))
        )
        async with home() as device:
            ours, our_recorder, theirs, _ = await device.joined_by(1)
            buggy = Buggy()
            theirs.set_receiver(buggy)
            ours.send(Renew(term=1))
            end = await buggy.ends.get()
            assert end.code == "local_protocol"
            assert "ZeroDivisionError" in end.message
            assert "oops" not in end.message
            assert isinstance(await reported.get(), ZeroDivisionError)
            await our_recorder.ends.get()

    run(test())


def test_a_peer_that_does_not_read_for_too_long(run: Run) -> None:
    async def test() -> None:
        settings = replace(IMPATIENT, write_pause_bytes=2**16)
        async with home(settings) as device:
            stranger = await Stranger.at(device.port)
            await stranger.join()
            ours, recorder = await device.arrivals.get()
            stranger.writer.transport.pause_reading()  # type: ignore[attr-defined]
            ours.send_tensor(Kind.SUM, TensorHeader(1, 1, 0, 1, WireDtype.FP32), bytes(16 * 2**20))
            alive = asyncio.create_task(keep_alive(stranger))
            with pytest.raises(DeviceLostError, match=r"does not read: \d+ bytes wait for more than 0\.3 s"):
                await ours.drain()
            alive.cancel()
            await asyncio.wait([alive])
            assert "does not read" in (await recorder.ends.get()).message
            stranger.reset()

    async def keep_alive(stranger: Stranger) -> None:
        while True:
            stranger.writer.write(encode_message(Renew(term=1)))
            await asyncio.sleep(IMPATIENT.ping_interval_s)

    run(test())


def test_a_write_buffer_has_a_hard_end(run: Run) -> None:
    async def test() -> None:
        settings = replace(SETTINGS, write_pause_bytes=2**16, write_limit_bytes=2**22)
        async with home(settings) as device:
            stranger = await Stranger.at(device.port)
            await stranger.join()
            ours, recorder = await device.arrivals.get()
            header = TensorHeader(1, 1, 0, 1, WireDtype.FP32)
            with pytest.raises(DeviceLostError, match="does not read"):  # noqa: PT012 how many go out is up to TCP
                for _ in range(1000):
                    ours.send_tensor(Kind.SUM, header, bytes(2**20))
            assert ours.closed
            assert "does not read" in (await recorder.ends.get()).message
            stranger.reset()

    run(test())


def test_drain_waits_for_a_slow_reader(run: Run) -> None:
    async def test() -> None:
        async with home(replace(SETTINGS, write_pause_bytes=2**16)) as device:
            ours, _, theirs, recorder = await device.joined_by(1)
            payload = np.random.default_rng(1).bytes(8 * 2**20)
            header = TensorHeader(1, 1, 0, 1, WireDtype.FP32)
            ours.send_tensor(Kind.SUM, header, payload)
            await ours.drain()
            ours.send(Failed(term=1, code="x", reason="y"))
            assert await recorder.messages.get() == (Kind.SUM, header, payload)
            assert (await recorder.messages.get())[0] is Kind.FAILED
            await theirs.close("done")

    run(test())


def test_a_profile_changes(run: Run) -> None:
    async def test() -> None:
        async with home() as device:
            ours, recorder, theirs, _ = await device.joined_by(1)
            changed = replace(hello_of(1).profile, budget_bytes=5, packs=("p",))
            theirs.send(Device(profile=changed))
            kind, message, _ = await recorder.messages.get()
            assert (kind, message) == (Kind.DEVICE, Device(profile=changed))
            assert ours.peer == changed

    run(test())


# The allreduce


class ToStar(Recorder):
    """Hands tensors to its star, as the engine does."""

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
        super().lost(connection, error)
        self.star.fail(error)


HIDDEN = 256
MAX_TOKENS = 300  # 300 KiB of fp32: several reads a frame


class Cluster:
    """Three ranks, each with its own star, over two connections."""

    def __init__(self) -> None:
        self.receivers = [ToStar() for _ in range(3)]
        self.connections: list[Connection] = []

    async def join(self, device: Home, wire_dtype: WireDtype) -> None:
        numbers: dict[str, Any] = {"hidden_size": HIDDEN, "max_tokens": MAX_TOKENS, "wire_dtype": wire_dtype}
        links = {}
        for rank in (1, 2):
            ours, _, theirs, _ = await device.joined_by(rank)
            links[rank] = ours
            ours.set_receiver(self.receivers[0])
            self.receivers[rank].star = StarLeaf(1, theirs, **numbers)
            theirs.set_receiver(self.receivers[rank])
            self.connections.append(theirs)
        self.receivers[0].star = StarHub(1, links, **numbers)

    def begin(self, pass_id: int, n_tokens: int) -> None:
        for receiver in self.receivers:
            receiver.star.begin(pass_id, n_tokens)


@pytest.mark.parametrize("wire_dtype", list(WireDtype))
def test_many_steps_over_three_ranks(run: Run, wire_dtype: WireDtype) -> None:
    """Each rank dawdles for a random number of turns of the loop; all see the same sums, pass after pass."""
    n_steps = 40

    def partial(pass_id: int, step: int, rank: int, n_tokens: int) -> np.ndarray | None:
        rng = np.random.default_rng([pass_id, step, rank])
        return None if rng.random() < 0.1 else rng.standard_normal((n_tokens, HIDDEN), np.float32)

    async def rank_of(cluster: Cluster, pass_id: int, rank: int, n_tokens: int, seed: int) -> list[np.ndarray]:
        dawdle = random.Random(seed * 3 + rank)
        sums = []
        for step in range(n_steps):
            for _ in range(dawdle.choice([0, 0, 1, 2, 30])):
                await asyncio.sleep(0)
            sums.append(
                (await cluster.receivers[rank].star.reduce(step, partial(pass_id, step, rank, n_tokens))).copy()
            )
        return sums

    async def test() -> None:
        async with home() as device:
            cluster = Cluster()
            await cluster.join(device, wire_dtype)
            first: list[bytes] = []
            for seed, (pass_id, n_tokens) in enumerate([(1, 1), (2, MAX_TOKENS), (3, 7)]):
                cluster.begin(pass_id, n_tokens)
                sums = await asyncio.gather(*(rank_of(cluster, pass_id, rank, n_tokens, seed) for rank in range(3)))
                for step in range(n_steps):
                    assert sums[0][step].tobytes() == sums[1][step].tobytes() == sums[2][step].tobytes()
                    parts = [partial(pass_id, step, rank, n_tokens) for rank in range(3)]
                    true = sum((part for part in parts if part is not None), np.zeros((n_tokens, HIDDEN)))
                    tolerance = {WireDtype.FP32: 1e-5, WireDtype.BF16: 0.05, WireDtype.INT8: 0.15}[wire_dtype]
                    assert np.abs(sums[0][step] - true).max() < tolerance
                first.append(sums[0][0].tobytes())
            assert len(set(first)) == len(first)
            for connection in cluster.connections:
                await connection.close("done")

    run(test())


def test_a_lost_rank_fails_the_pass_everywhere_it_waits(run: Run) -> None:
    async def test() -> None:
        async with home() as device:
            cluster = Cluster()
            await cluster.join(device, WireDtype.FP32)
            cluster.begin(1, 1)
            ones = np.ones((1, HIDDEN), np.float32)
            hub = asyncio.create_task(cluster.receivers[0].star.reduce(0, ones))
            leaf = asyncio.create_task(cluster.receivers[1].star.reduce(0, ones))
            await asyncio.sleep(0)
            cluster.connections[1].abort(DeviceLostError("The lid was closed."))
            with pytest.raises(DeviceLostError, match="device-2"):
                await hub
            cluster.receivers[1].star.fail(DeviceLostError("The hub said so."))  # the engine, on ABORT
            with pytest.raises(DeviceLostError, match="The hub said so"):
                await leaf

    run(test())


def test_a_message_is_a_message(run: Run) -> None:
    """Every control message that is for the owner reaches the owner."""
    messages: list[Message] = [Renew(term=1), Loaded(term=1, held_bytes=2), Failed(term=1, code="c", reason="r")]

    async def test() -> None:
        async with home() as device:
            ours, _, _, recorder = await device.joined_by(1)
            for message in messages:
                ours.send(message)
            assert [(await recorder.messages.get())[1] for _ in messages] == messages

    run(test())

"""Clients that hold on to the daemon: too many, half a head, an answer that nobody reads."""

import asyncio
import contextlib
import json
import logging
import socket
from typing import Any

import pytest
import uvloop

from tests.unit.api.scripted import Api, ScriptedEngine, Serve
from tpid.api.connections import MAX_UNREAD_BYTES, Connections
from tpid.engine.generation import Text

CHAT_BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}).encode()
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(CHAT_BODY) + CHAT_BODY
QUIET = (b"\x16", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")  # a first line of another protocol: aiohttp says it at debug
STATUS = b"GET /tpid/status HTTP/1.1\r\nHost: x\r\n\r\n"


async def is_cut(reader: asyncio.StreamReader) -> bool:
    """Whether the daemon ends the connection, whatever it said before."""
    with contextlib.suppress(ConnectionResetError):
        await reader.read()
    return reader.at_eof() or reader.exception() is not None


def test_a_client_that_does_not_read_its_answer_is_cut_and_the_answer_ends(
    serve: Serve, engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.endless = Text("x" * 10_000)

    async def main() -> None:
        async with serve(unread_timeout_s=0.05) as api:
            reader, writer = await api.raw()
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(CHAT)
            await engine.ended.wait()
            assert engine.running == 0
            writer.transport.resume_reading()  # type: ignore[attr-defined]
            assert await is_cut(reader)
            writer.close()

    with caplog.at_level(logging.INFO):
        uvloop.run(main())
    assert [r.getMessage() for r in caplog.records if "client" in r.msg] == [
        "client_cut reason=does_not_read after_s=0.05"
    ]


def test_what_is_kept_for_a_client_that_reads_nothing_is_bounded(serve: Serve, engine: ScriptedEngine) -> None:
    engine.endless = Text("x" * 1000)

    async def main() -> None:
        async with serve(unread_timeout_s=0.2) as api:
            _, writer = await api.raw()
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(CHAT)
            await engine.ended.wait()
            writer.close()

    uvloop.run(main())
    assert engine.n_endless * 1000 < 2 * MAX_UNREAD_BYTES


def test_an_answer_does_not_wait_for_a_client_that_reads_nothing(serve: Serve, engine: ScriptedEngine) -> None:
    engine.script = [Text("x" * 100_000) for _ in range(8)] + engine.script

    async def main() -> None:
        async with serve(unread_timeout_s=30) as api:
            reader, writer = await api.raw()
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(CHAT)
            await engine.ended.wait()
            writer.transport.resume_reading()  # type: ignore[attr-defined]
            got = b""
            while b"[DONE]" not in got[-100:]:
                got += await reader.read(1 << 16)
            assert len(got) > 800_000
            writer.close()

    uvloop.run(main())


def test_a_client_that_trickles_may_take_its_time(serve: Serve, engine: ScriptedEngine) -> None:
    """Longer than a client may take nothing at all."""
    engine.script = [Text("x" * 100_000) for _ in range(8)] + engine.script

    async def main() -> None:
        async with serve(unread_timeout_s=0.2) as api:
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, str(api.path))
            await loop.sock_sendall(sock, CHAT)
            got, began_s = b"", loop.time()
            while b"[DONE]" not in got[-100:]:
                got += await loop.sock_recv(sock, 40_000)
                await asyncio.sleep(0.03)
            assert loop.time() - began_s > 0.3
            sock.close()

    uvloop.run(main())


def test_a_client_that_reads_slowly_is_served(serve: Serve, engine: ScriptedEngine) -> None:
    engine.script = [Text("x" * 50_000) for _ in range(3 * MAX_UNREAD_BYTES // 50_000)] + engine.script

    async def main() -> None:
        async with serve(unread_timeout_s=30) as api:
            reader, writer = await api.raw()
            writer.write(CHAT)
            got = b""
            while b"[DONE]" not in got[-1000:]:
                got += await reader.read(20_000)
                await asyncio.sleep(0)
            assert len(got) > 2 * MAX_UNREAD_BYTES
            writer.close()

    uvloop.run(main())


class Transport(asyncio.Transport):
    """That takes what the test says."""

    def __init__(self) -> None:
        super().__init__({"socket": socket.socket(socket.AF_UNIX)})
        self.unread_bytes = 0
        self.cut = asyncio.Event()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.unread_bytes += len(data)

    def get_write_buffer_size(self) -> int:
        return self.unread_bytes

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 0

    def abort(self) -> None:
        self.get_extra_info("socket").close()
        self.cut.set()


class Inner(asyncio.Protocol):
    def __init__(self) -> None:
        self.transport: Any = None
        self.paused = False
        self.resumed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.resumed.set()


def test_writing_goes_on_when_half_of_what_was_kept_is_taken_and_a_client_that_stops_is_cut() -> None:
    async def main() -> None:
        inner, transport = Inner(), Transport()
        guarded = Connections(lambda: inner, unread_timeout_s=0.04)()
        guarded.connection_made(transport)
        inner.transport.write(b"x" * MAX_UNREAD_BYTES)
        guarded.pause_writing()
        assert not inner.paused
        inner.transport.writelines([b"x", b"y"])
        assert inner.paused
        transport.unread_bytes = MAX_UNREAD_BYTES // 2
        await inner.resumed.wait()
        assert not transport.cut.is_set()
        await transport.cut.wait()

    asyncio.run(asyncio.wait_for(main(), 20))


@pytest.mark.parametrize("sent", [b"", b"GET /tpid/st", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n", STATUS])
def test_a_connection_without_a_complete_head_is_closed(serve: Serve, sent: bytes) -> None:
    async def main() -> None:
        async with serve(head_timeout_s=0.05) as api:
            reader, writer = await api.raw()
            writer.write(sent)
            assert await is_cut(reader)
            writer.close()

    uvloop.run(main())


def test_an_answer_may_take_longer_than_a_head(serve: Serve, engine: ScriptedEngine) -> None:
    engine.script = [Text("a"), asyncio.Event()]

    async def main() -> None:
        async with serve(head_timeout_s=0.02) as api:
            reader, writer = await api.raw()
            writer.write(CHAT)
            await reader.readuntil(b'"content": "a"')
            await is_cut((idle := await api.raw())[0])  # so that this time has passed
            idle[1].close()
            assert engine.running == 1
            writer.close()
            await engine.ended.wait()

    uvloop.run(main())


async def status_of(api: Api) -> int:
    return (await api.text("/tpid/status"))[0]


def test_connections_above_the_limit_are_told_so_and_room_comes_back(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serve(max_connections=2) as api:
            held = [await api.raw() for _ in range(2)]
            held[0][1].write(STATUS)
            await held[0][0].readuntil(b"\r\n\r\n")
            status, answer = await api.request("/tpid/status")
            assert (status, answer["error"]["code"]) == (503, "busy")
            held[1][1].close()
            while await status_of(api) != 200:  # noqa: ASYNC110 (there is no event for it)
                await asyncio.sleep(0)
            held[0][1].close()

    with caplog.at_level(logging.INFO):
        uvloop.run(main())
    assert "connection_refused reason=too_many open=2" in caplog.messages


def test_clients_that_leave_leave_no_traceback(
    serve: Serve, engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.endless = Text("x" * 1000)

    async def main() -> None:
        async with serve() as api:
            for _ in range(20):
                reader, writer = await api.raw()
                writer.write(CHAT)
                await reader.readuntil(b"xxx")
                writer.transport.abort()
                await engine.ended.wait()
                engine.ended.clear()
            assert await status_of(api) == 200
            assert engine.running == 0

    with caplog.at_level(logging.INFO):
        uvloop.run(main())
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 1000 + b"\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n\xff\xff\r\n\r\n",
    ],
)
def test_what_is_no_http_is_one_line_at_most(serve: Serve, garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serve() as api:
            reader, writer = await api.raw()
            writer.write(garbage)
            assert await is_cut(reader)
            writer.close()
            assert await status_of(api) == 200

    with caplog.at_level(logging.INFO):
        uvloop.run(main())
    assert not [record for record in caplog.records if record.exc_info]
    assert sum("request_malformed" in message for message in caplog.messages) == (not garbage.startswith(QUIET))

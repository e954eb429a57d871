"""Giving units to the other devices of the home: one task a connection, one question after the other."""

import asyncio
import logging
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from tpid.comm.stream import Stream
from tpid.comm.tls_channel import TlsChannel
from tpid.device import DeviceId
from tpid.errors import TpidError
from tpid.pack.manifest import PackId, read_manifest
from tpid.pack.pieces import is_piece, read_piece
from tpid.pack.presence import Presence
from tpid.pack.reader import Pack
from tpid.transfer.pace import BUSY_BYTES_S, SLICE_BYTES, Pacer
from tpid.transfer.wire import Question, QuestionReader, What, encode_given, encode_lacking

MAX_ASKERS: Final = 16  # connections at a time
MAX_OF_MEMBER: Final = 2  # of one device, which needs one: the one before may not have ended yet
MAX_QUESTIONS: Final = 512  # of one asker, unanswered
IDLE_S: Final = 30.0  # without a question, or without taking in what is sent: the connection is closed

_RECEIVE_BYTES: Final = 16 * 1024
_WRITE_PAUSE_BYTES: Final = 256 * 1024
_SO_MAX_PACING_RATE: Final = 47  # Linux, where Python has no name for it
_NO_PACING: Final = 2**32 - 1

log = logging.getLogger(__name__)

Held = tuple[Pack, Presence | None]  # a pack, and what is there of it; None: all


class Giver:
    """Answers whoever is a member, as long as it is one."""

    def __init__(
        self,
        find: Callable[[PackId], Held | None],
        is_member: Callable[[DeviceId], bool],
        is_busy: Callable[[], bool],
    ) -> None:
        """`find` looks at the disk and is called in a thread. `is_busy`: whether this device computes now."""
        self._find = find
        self._is_member = is_member
        self._is_busy = is_busy
        self._pacer = Pacer(0.0)
        self._tasks: dict[asyncio.Task[None], DeviceId] = {}
        self.given_bytes = 0

    def serve(self, channel: TlsChannel, member: DeviceId) -> None:
        """Takes over the channel."""
        if len(self._tasks) >= MAX_ASKERS or list(self._tasks.values()).count(member) >= MAX_OF_MEMBER:
            channel.sock.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(channel, member), name="giver")
        self._tasks[task] = member
        task.add_done_callback(self._tasks.pop)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, channel: TlsChannel, member: DeviceId) -> None:
        asker = _Asker(channel)
        packs: dict[PackId, Held | None] = {}
        try:
            while self._is_member(member):
                async with asyncio.timeout(IDLE_S):
                    question = await asker.next_question()
                if question is None:
                    return
                await self._answer(asker, question, packs)
        except TimeoutError:
            pass
        except (TpidError, OSError) as error:
            log.info("giving_ended peer=%s reason=%r", member[:12], str(error))
        except Exception:  # a fault of ours: the asker has others to ask
            log.exception("giving_failed peer=%s", member[:12])
        finally:
            asker.close()

    async def _answer(self, asker: "_Asker", question: Question, packs: dict[PackId, Held | None]) -> None:
        if question.what in (What.MANIFEST, What.PRESENCE) or question.pack not in packs:
            packs[question.pack] = await asyncio.to_thread(self._find, question.pack)
        held = packs[question.pack]
        data: memoryview | None = None
        if held is not None:
            try:
                data = await asyncio.to_thread(_content, held, question)
            except TpidError as error:
                log.warning("units_unreadable pack=%s reason=%r", question.pack[:12], str(error))
        if data is None:
            asker.write(encode_lacking())
            return
        asker.write(encode_given(len(data)))
        loop = asyncio.get_running_loop()
        for start in range(0, len(data), SLICE_BYTES):
            piece = data[start : start + SLICE_BYTES]
            busy = self._is_busy()
            asker.pace(busy)
            wait_s = self._pacer.wait_s(len(piece), loop.time(), busy=busy)
            await asyncio.sleep(wait_s)  # 0 as well: others have their turn between any two slices
            async with asyncio.timeout(IDLE_S):
                await asker.room()
            asker.write(piece)
            self.given_bytes += len(piece)


def _content(held: Held, question: Question) -> memoryview | None:
    """What is asked for, None where it is not here. Raises TpidError."""
    pack, presence = held
    if question.what is What.MANIFEST:
        return memoryview(read_manifest(pack.directory))
    if question.what is What.PRESENCE:
        return memoryview((presence or Presence.whole(pack.manifest)).encode())
    piece = question.piece
    if piece is None or not is_piece(pack.manifest, piece) or (presence is not None and piece not in presence):
        return None
    return memoryview(read_piece(pack, piece))


class _Asker:
    """The other end, as a stream of questions with room for answers."""

    def __init__(self, channel: TlsChannel) -> None:
        self._reader = QuestionReader()
        self._questions: asyncio.Queue[Question | TpidError | None] = asyncio.Queue()
        self._buffer = memoryview(bytearray(_RECEIVE_BYTES))
        self._room = asyncio.Event()
        self._room.set()
        self._gone = False
        self._paced = False
        self._stream = Stream(channel, self, write_pause_bytes=_WRITE_PAUSE_BYTES)
        self._stream.start()

    async def next_question(self) -> Question | None:
        """None when the asker has ended. Raises RemoteProtocolError."""
        question = await self._questions.get()
        if self._questions.qsize() < MAX_QUESTIONS and not self._gone:
            self._stream.resume_reading()
        if isinstance(question, TpidError):
            raise question
        return question

    async def room(self) -> None:
        """Until little is unsent. Raises ConnectionError where the asker is gone."""
        await self._room.wait()
        if self._gone:
            raise ConnectionResetError("the asker has gone")

    def write(self, data: bytes | memoryview) -> None:
        self._stream.write(data)

    def pace(self, busy: bool) -> None:
        """The system spreads what is sent, so that it never stands in a row before a partial. Where it can."""
        if busy != self._paced:
            self._paced = busy
            rate = struct.pack("=I", int(BUSY_BYTES_S) if busy else _NO_PACING)
            with suppress(OSError):
                self._stream.sock.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, rate)

    def close(self) -> None:
        if not self._gone:
            self._stream.abort()

    # What the stream calls

    def get_buffer(self) -> memoryview:
        return self._buffer

    def buffer_updated(self, n_bytes: int) -> None:
        try:
            for question in self._reader.feed(bytes(self._buffer[:n_bytes])):
                self._questions.put_nowait(question)
        except TpidError as error:
            self._questions.put_nowait(error)
            self._stream.pause_reading()
        if self._questions.qsize() >= MAX_QUESTIONS:
            self._stream.pause_reading()

    def eof_received(self) -> None:
        self._questions.put_nowait(None)

    def connection_lost(self, error: OSError | None) -> None:
        self._gone = True
        self._room.set()
        self._questions.put_nowait(None)

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

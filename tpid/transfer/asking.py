"""The asker's end of a connection for units: questions out, answers in, in the order of the questions."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from tpid.comm.stream import Stream
from tpid.comm.tls_channel import TlsChannel
from tpid.errors import DeviceLostError, RemoteProtocolError
from tpid.transfer.wire import AnswerReader, Question, encode_question

_WRITE_PAUSE_BYTES = 1 << 20  # questions are small


@dataclass(slots=True)
class _Open:
    question: Question
    most_bytes: int
    answer: "asyncio.Future[bytearray | None]"


class AskingLine:
    """Owns its channel from the start; ends once, and says why to every question that is open."""

    def __init__(self, channel: TlsChannel, name: str, heard: Callable[[int], None] = lambda n_bytes: None) -> None:
        """`name` of the other device, for people; `heard` gets the number of each bytes that come."""
        self.name = name
        self.heard = heard
        self._open: deque[_Open] = deque()
        self._lost: DeviceLostError | RemoteProtocolError | None = None
        self._reader = AnswerReader(lambda: self._open[0].most_bytes if self._open else -1, self._answered)
        self._stream = Stream(channel, self, write_pause_bytes=_WRITE_PAUSE_BYTES)
        self._stream.start()

    def ask(self, question: Question, most_bytes: int) -> "asyncio.Future[bytearray | None]":
        """The answer, of `most_bytes` at most; None where the other has nothing.

        It raises DeviceLostError, or RemoteProtocolError for an answer that is none.
        """
        answer: asyncio.Future[bytearray | None] = asyncio.get_running_loop().create_future()
        if self._lost is not None:
            answer.set_exception(self._lost.again())
        else:
            self._open.append(_Open(question, most_bytes, answer))
            self._stream.write(encode_question(question))
        return answer

    def close(self) -> None:
        self._end(DeviceLostError(f"The connection to {self.name} was closed."))

    def _answered(self, payload: bytearray | None) -> None:
        answer = self._open.popleft().answer
        if not answer.done():
            answer.set_result(payload)

    def _end(self, error: DeviceLostError | RemoteProtocolError) -> None:
        if self._lost is None:
            self._lost = error
            self._stream.abort()
            while self._open:
                answer = self._open.popleft().answer
                if not answer.done():
                    answer.set_exception(error.again())
                    answer.exception()  # looked at, where nobody waits for it any more

    # What the stream calls

    def get_buffer(self) -> memoryview:
        return self._reader.get_buffer()

    def buffer_updated(self, n_bytes: int) -> None:
        if self._lost is not None:
            return
        self.heard(n_bytes)
        try:
            self._reader.buffer_updated(n_bytes)
        except RemoteProtocolError as error:
            self._end(RemoteProtocolError(f"{self.name} does not answer as it should: {error.message}"))

    def eof_received(self) -> None:
        self._end(DeviceLostError(f"{self.name} has ended the connection for units."))

    def connection_lost(self, error: OSError | None) -> None:
        self._end(DeviceLostError(f"The connection for units to {self.name} broke."))

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass

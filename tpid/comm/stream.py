"""A stream without asyncio's transports: what is written leaves at once, and whoever waits may read for himself.

A transport sends at the end of the loop's turn, so a sum would wait until the hub has computed its next block; and it
receives in the loop only, where the way from the socket to a waiting task takes longer than an exchange on a wired
link. Here the loop watches the socket as well, for all the time that nobody waits at it. Whether the bytes go as they
are or through TLS is the channel's business.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import select
import socket
import time
from collections import deque
from typing import Final, Protocol

from tpid.comm.channel import Buffer, Channel, PlainChannel

__all__ = ["Buffer", "Stream", "StreamOwner"]

# Looking again and again is quicker than sleeping and being woken, which takes tens of microseconds where a core has
# gone to sleep as well. So for so long we look, and sleep then.
_LOOK_S: Final = 200e-6
# But not while others want this core, which may well be the peer itself: a yield to nobody returns sooner than this.
_ALONE_S: Final = 5e-6
# Where it came to nothing, so many waits are slept through before the next try; doubled each time.
_MOST_ASLEEP: Final = 256
_PIECES: Final = 64  # of the backlog in one system call; the system's own limit is 1024


class StreamOwner(Protocol):
    """The callbacks of a stream, like those of `asyncio.BufferedProtocol`; `receive` may call all but the last one."""

    def get_buffer(self) -> memoryview:
        """Where to receive; never empty."""
        ...

    def buffer_updated(self, n_bytes: int) -> None: ...

    def eof_received(self) -> None:
        """The peer has ended its half; the stream closes when what is unsent has gone out."""
        ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def connection_lost(self, error: OSError | None) -> None:
        """Exactly once, from the loop, whatever ended the stream; None where this side did."""
        ...


class Stream:
    """Owns a connected socket or a channel, from `start` on. To be used on the event loop's thread only."""

    def __init__(self, connected: socket.socket | Channel, owner: StreamOwner, *, write_pause_bytes: int) -> None:
        """A bare socket is spoken to in plain. `owner.pause_writing` is called when more than `write_pause_bytes`
        are unsent."""
        channel: Channel = PlainChannel(connected) if isinstance(connected, socket.socket) else connected
        self.sock = channel.sock
        self.is_closing = False  # nothing can be written any more
        self._channel = channel
        self._send = channel.send  # looked up once: they are called at each step of a pass
        self._receive_into = channel.receive_into
        self._queued_bytes = 0
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._write_pause_bytes = write_pause_bytes
        self._queued: deque[memoryview] = deque()  # what the channel has not taken
        self._backlogged = False  # something is unsent, and the loop waits for room
        self._write_paused = False
        self._ends_writing = False  # when all is sent
        self._reading = False
        self._gone = False
        self._waits_asleep = 0  # before we look again
        self._next_asleep = 1
        self._poll = select.poll()
        self._poll.register(self.sock, select.POLLIN)

    @property
    def unsent_bytes(self) -> int:
        return self._queued_bytes + self._channel.unsent_bytes

    @property
    def peer_name(self) -> tuple[str, int] | None:
        """Host and port; None where the peer is gone already."""
        try:
            host, port = self.sock.getpeername()[:2]
        except (OSError, ValueError):
            return None
        return str(host), int(port)

    def start(self) -> None:
        self.resume_reading()

    def write(self, *pieces: Buffer) -> None:
        """Send as much as goes; the rest follows, and must not change until then. Too late it does nothing."""
        if self.is_closing or self._ends_writing:
            return
        sent = 0
        if not self._backlogged:
            try:
                sent = self._send(pieces)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self._finish(error)
                return
            if sent == sum(map(len, pieces)) and not self._channel.unsent_bytes:
                return
            self._await_room()
        for piece in pieces:
            if sent >= len(piece):
                sent -= len(piece)
                continue
            rest = memoryview(piece)[sent:]
            sent = 0
            self._queued.append(rest)
            self._queued_bytes += len(rest)
        if not self._write_paused and self.unsent_bytes > self._write_pause_bytes:
            self._write_paused = True
            self._owner.pause_writing()

    def flush(self, most_s: float) -> None:
        """Wait, without the loop and for `most_s`, for what is unsent to go out."""
        if not self._backlogged:
            return
        deadline_s = time.perf_counter() + most_s
        poll = select.poll()
        poll.register(self.sock, select.POLLOUT)
        while self._backlogged and (left_s := deadline_s - time.perf_counter()) > 0:
            poll.poll(left_s * 1000)
            self._flush()

    def receive(self, deadline_s: float) -> bool:
        """Hand over what has come, or wait for it without the loop, until `deadline_s` of `time.perf_counter`.

        Whether anything came. Never where reading is paused or the stream has ended: the loop tells of that.
        """
        if not self._reading:
            return False
        if self._backlogged:
            self.flush(deadline_s - time.perf_counter())  # what the peer shall answer to
        if self._channel.holds_more and self._receive():
            return True
        if self._waits_asleep > 0:
            self._waits_asleep -= 1
        elif self._look(deadline_s):
            return True
        while (left_s := deadline_s - time.perf_counter()) > 0 and self._poll.poll(left_s * 1000):
            if self._receive():  # not where a part of a TLS record has come
                return True
        return False

    def _look(self, deadline_s: float) -> bool:
        """Look again and again, as long as nobody else wants the core; whether anything came."""
        if self._receive():
            return True
        looked_s = time.perf_counter()
        until_s = min(looked_s + _LOOK_S, deadline_s)
        while looked_s < until_s:
            os.sched_yield()
            if time.perf_counter() - looked_s > _ALONE_S:
                break
            if self._receive():
                self._next_asleep = 1
                return True
            looked_s = time.perf_counter()
        self._waits_asleep = self._next_asleep
        self._next_asleep = min(2 * self._next_asleep, _MOST_ASLEEP)
        return False

    def pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self.sock)

    def resume_reading(self) -> None:
        if not self._reading and not self.is_closing:
            self._reading = True
            self._loop.add_reader(self.sock, self._receive)
            if self._channel.holds_more:
                self._loop.call_soon(self._receive_held)

    def end_writing(self) -> None:
        """End this half of the stream when all is sent."""
        if not self._ends_writing and not self.is_closing:
            self._ends_writing = True
            self._all_sent()

    def close(self) -> None:
        """Read no more, and close when all is sent."""
        if not self.is_closing:
            self.is_closing = True
            self.pause_reading()
            self._all_sent()

    def abort(self) -> None:
        """Close at once, whatever is unsent."""
        self._finish(None)

    def _receive(self) -> bool:
        """Hand over what one look at the socket brings; False where nothing is there."""
        if not self._receive_once():
            return False
        while self._channel.holds_more and self._reading and self._receive_once():
            pass
        return True

    def _receive_held(self) -> None:
        """What had come before reading was resumed: the socket does not tell of it any more."""
        if self._channel.holds_more and self._reading:
            self._receive()

    def _receive_once(self) -> bool:
        """One read; False where nothing is there."""
        try:
            n_bytes = self._receive_into(self._owner.get_buffer())
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._finish(error)
            return True
        try:
            if n_bytes:
                self._owner.buffer_updated(n_bytes)
            else:
                self._owner.eof_received()
                self.close()
        except Exception as error:  # a bug of the owner: not of whoever happens to wait for this stream
            self._loop.call_exception_handler({"message": "A bug ended a connection.", "exception": error})
            self._finish(None)
        return True

    def _flush(self) -> None:
        try:
            sent = self._send(itertools.islice(self._queued, _PIECES))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._finish(error)
            return
        self._queued_bytes -= sent
        while self._queued and sent >= len(self._queued[0]):
            sent -= len(self._queued.popleft())
        if sent:
            self._queued[0] = self._queued[0][sent:]
        if self._write_paused and self.unsent_bytes <= self._write_pause_bytes // 4:
            self._write_paused = False
            self._owner.resume_writing()
        if not self._queued and not self._channel.unsent_bytes and not self._gone:
            self._backlogged = False
            self._loop.remove_writer(self.sock)
            self._all_sent()

    def _await_room(self) -> None:
        self._backlogged = True
        self._loop.add_writer(self.sock, self._flush)

    def _all_sent(self) -> None:
        """Do what has waited for it, if all is."""
        if self._backlogged:
            return
        if self.is_closing:
            self._finish(None, orderly=True)
        elif self._ends_writing:
            try:
                ended = self._channel.end_writing()
            except OSError as error:
                self._finish(error)
                return
            if not ended:
                self._await_room()

    def _finish(self, error: OSError | None, *, orderly: bool = False) -> None:
        if self._gone:
            return
        self._gone = True
        self.is_closing = True
        self.pause_reading()
        self._loop.remove_writer(self.sock)
        self._queued.clear()
        self._queued_bytes = 0
        self._backlogged = False
        self._channel.close(orderly=orderly)
        self._loop.call_soon(self._owner.connection_lost, error)

"""The connections of the API's socket: how many there may be, and what becomes of one that is not read."""

import asyncio
import json
import logging
import socket
from collections.abc import Callable, Iterable
from typing import Any, cast

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 64  # a home has a handful of clients; each connection may hold a body
UNREAD_TIMEOUT_S = 10.0  # after this a client that takes nothing of its answer is cut
LOOKS = 4  # at what it takes, in this time
# Of an answer, kept for a client that reads slowly: 4000 tokens, so that hardly any answer ever waits for its client.
MAX_UNREAD_BYTES = 1 << 20
SEND_BUFFER_BYTES = 1 << 14  # of the system; some hundred events of a stream, of a slow one fewer

_FULL = {
    "code": "busy",
    "message": f"The daemon has {MAX_CONNECTIONS} connections already.",
    "hint": "Close some, then try again.",
    "type": "tpid_error",
}


class Connections:
    """Makes the protocol of each new connection; call it as a protocol factory."""

    def __init__(
        self,
        make_protocol: Callable[[], asyncio.Protocol],
        *,
        max_connections: int = MAX_CONNECTIONS,
        unread_timeout_s: float = UNREAD_TIMEOUT_S,
    ) -> None:
        self._make_protocol = make_protocol
        self._max_connections = max_connections
        self._unread_timeout_s = unread_timeout_s
        self._open: set[asyncio.Protocol] = set()

    def __call__(self) -> asyncio.Protocol:
        if len(self._open) >= self._max_connections:
            log.warning("connection_refused reason=too_many open=%d", len(self._open))
            return _Refusal()
        return _Guarded(self._make_protocol(), self._open, self._unread_timeout_s)


class _Guarded(asyncio.Protocol):
    """Hands all to `inner`, which does not wait for a client to read, and cuts a client that takes nothing.

    What a client has not read yet is kept for it, so that the answer goes on and makes room for those who wait. Above
    MAX_UNREAD_BYTES `inner` pauses until half of it is taken.
    """

    def __init__(self, inner: asyncio.Protocol, open_: set[asyncio.Protocol], unread_timeout_s: float) -> None:
        self._inner = inner
        self._open = open_
        self._unread_timeout_s = unread_timeout_s
        self._transport: _Counted | None = None
        self._look: asyncio.TimerHandle | None = None  # while there is something unread
        self._taken_bytes = 0  # when it was looked last
        self._idle_looks = 0  # since anything was taken, or since `inner` is paused
        self._paused = False
        self._open.add(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = _Counted(cast(asyncio.Transport, transport), self._wrote)  # uvloop's is none by its class
        # With a short buffer of the system, and none that goes unnoticed: what is not read is known soon.
        self._transport.set_write_buffer_limits(high=0)
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._inner.connection_made(cast(asyncio.BaseTransport, self._transport))

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)
        self._disarm()
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        """Something is unread."""
        if self._transport is not None:
            self._taken_bytes = self._transport.taken_bytes
        self._idle_looks = 0
        self._arm()

    def resume_writing(self) -> None:
        """All is read."""
        self._disarm()
        self._resume_inner()

    def _wrote(self, unread_bytes: int) -> None:
        if unread_bytes > MAX_UNREAD_BYTES and not self._paused:
            self._paused = True
            self._idle_looks = 0
            self._inner.pause_writing()

    def _resume_inner(self) -> None:
        if self._paused:
            self._paused = False
            self._inner.resume_writing()

    def _arm(self) -> None:
        self._disarm()
        self._look = asyncio.get_running_loop().call_later(self._unread_timeout_s / LOOKS, self._looked)

    def _disarm(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _looked(self) -> None:
        if self._transport is None:
            return
        if self._paused and self._transport.get_write_buffer_size() <= MAX_UNREAD_BYTES // 2:
            self._resume_inner()
        taken_bytes = self._transport.taken_bytes
        # A trickle is as good as nothing for the answer that waits for it.
        moves = taken_bytes != self._taken_bytes and not self._paused
        self._taken_bytes = taken_bytes
        self._idle_looks = 0 if moves else self._idle_looks + 1
        if self._idle_looks < LOOKS:
            self._arm()
            return
        log.warning("client_cut reason=does_not_read after_s=%g", self._unread_timeout_s)
        self._transport.abort()


class _Counted:
    """A transport that tells of each write how much is unread, and how much was taken so far."""

    def __init__(self, transport: asyncio.Transport, wrote: Callable[[int], None]) -> None:
        self._transport = transport
        self._wrote = wrote
        self._written_bytes = 0

    @property
    def taken_bytes(self) -> int:
        return self._written_bytes - self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        self._written_bytes += len(data)
        self._transport.write(data)
        self._wrote(self._transport.get_write_buffer_size())

    def writelines(self, pieces: Iterable[bytes]) -> None:
        self.write(b"".join(pieces))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Refusal(asyncio.Protocol):
    """An answer to a connection above the limit, whatever it wants."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        to = cast(asyncio.Transport, transport)
        body = json.dumps({"error": _FULL}).encode()
        head = (
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        to.write(head.encode() + body)
        to.close()

"""The connections of the API's socket: how many there may be, and what becomes of one that is not read."""

import asyncio
import json
import logging
import socket
from collections.abc import Callable
from typing import cast

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 64  # a home has a handful of clients; each connection may hold a body
UNREAD_TIMEOUT_S = 10.0  # after this a client that does not read its answer is cut, and the engine's turn is free
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
    """Hands all to `inner`, and cuts a connection whose other end does not take what was sent."""

    def __init__(self, inner: asyncio.Protocol, open_: set[asyncio.Protocol], unread_timeout_s: float) -> None:
        self._inner = inner
        self._open = open_
        self._unread_timeout_s = unread_timeout_s
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._open.add(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        # Without a buffer of its own, and with a short one of the system: `pause_writing` tells soon what is not read.
        self._transport.set_write_buffer_limits(high=0)
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)
        self._disarm()
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._disarm()
        self._deadline = asyncio.get_running_loop().call_later(self._unread_timeout_s, self._cut)
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._disarm()
        self._inner.resume_writing()

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cut(self) -> None:
        log.warning("client_cut reason=does_not_read after_s=%g", self._unread_timeout_s)
        if self._transport is not None:
            self._transport.abort()


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

"""How connections come to be: dialled, or accepted by a listener. Both end with the hello done."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
from collections.abc import Callable
from typing import Final, cast

from tpid.comm.connection import Connection, format_address
from tpid.comm.handshake import Handshake
from tpid.comm.messages import Hello
from tpid.comm.settings import CommSettings
from tpid.errors import ConfigError, DeviceLostError, ListenError, TpidError

# Strangers hold a staging buffer each until their hello is late; a home has fewer devices than this.
MAX_OPENING: Final = 64

_logger = logging.getLogger(__name__)


async def dial(host: str, port: int, hello: Callable[[], Hello], settings: CommSettings) -> Connection:
    """Connect to a device; give the connection its receiver before the next await.

    Raises DeviceLostError where nobody answers in time, VersionMismatchError, RefusedError (ours or theirs),
    RemoteProtocolError, and ConfigError for an address that may not be dialled. May be cancelled.
    """
    _check_address(host, settings)
    address = format_address(host, port)
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[Connection] = loop.create_future()

    def on_failed(_: Connection, error: TpidError) -> None:
        if not opened.done():
            opened.set_exception(error)

    def make_handshake(_: str) -> Handshake:
        return Handshake(hello(), dialled=True, peer_address=address)

    connection = Connection(make_handshake, settings, on_open=opened.set_result, on_failed=on_failed)
    try:
        async with asyncio.timeout(settings.connect_timeout_s):
            await loop.create_connection(lambda: connection, host, port)
    except TimeoutError:
        opened.cancel()
        seconds = settings.connect_timeout_s
        raise DeviceLostError(f"The device at {address} did not answer within {seconds:g} s.") from None
    except (OSError, UnicodeError, OverflowError) as error:
        opened.cancel()
        raise DeviceLostError(f"The device at {address} cannot be reached: {error}.") from error
    except asyncio.CancelledError:
        opened.cancel()
        raise
    try:
        return await opened  # the connection itself sees to it that the hello comes in time
    except asyncio.CancelledError:
        connection.abort(DeviceLostError(f"Dialling {address} was cancelled."))
        raise


class Listener:
    """Accepts connections until closed. What comes to nothing before its hello is logged, and harms nothing."""

    def __init__(
        self,
        hello: Callable[[], Hello],
        accept: Callable[[Hello], None],
        on_connection: Callable[[Connection], None],
        settings: CommSettings,
    ) -> None:
        self.port = 0
        self._hello = hello
        self._accept = accept
        self._on_connection = on_connection
        self._settings = settings
        self._opening: set[Connection] = set()
        self._server: asyncio.Server | None = None

    @classmethod
    async def listen(
        cls,
        host: str,
        port: int,
        *,
        hello: Callable[[], Hello],
        accept: Callable[[Hello], None],
        on_connection: Callable[[Connection], None],
        settings: CommSettings,
    ) -> Listener:
        """Listen on `port`, 0 for any free one.

        `accept` raises a TpidError to refuse a hello. `on_connection` gets each connection that is up and sets its
        receiver. Raises ListenError, and ConfigError for an address that may not be listened on.
        """
        _check_address(host, settings)
        listener = cls(hello, accept, on_connection, settings)
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(listener._incoming, host, port)
        except (OSError, UnicodeError, OverflowError) as error:
            raise _listen_error(host, port, error) from error
        listener._server = server
        listener.port = server.sockets[0].getsockname()[1]
        return listener

    async def close(self) -> None:
        """Stop listening; connections that are up stay up, those before their hello are cut."""
        if self._server is not None:
            # Not wait_closed: that waits for the connections that stay up.
            self._server.close()
            self._server = None
        opening = list(self._opening)
        for connection in opening:
            await connection.close("The device stops listening.")

    def _incoming(self) -> asyncio.BaseProtocol:
        if len(self._opening) >= MAX_OPENING:
            return _Rejection()
        connection = Connection(self._handshake, self._settings, on_open=self._opened, on_failed=self._failed)
        self._opening.add(connection)
        return connection

    def _handshake(self, address: str) -> Handshake:
        return Handshake(self._hello(), dialled=False, peer_address=address, accept=self._accept)

    def _opened(self, connection: Connection) -> None:
        self._opening.discard(connection)
        self._on_connection(connection)

    def _failed(self, connection: Connection, error: TpidError) -> None:
        self._opening.discard(connection)
        _logger.info("hello_failed peer=%s error=%s reason=%s", connection.peer_address, error.code, error)


class _Rejection(asyncio.Protocol):
    """For one stranger too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()


def _listen_error(host: str, port: int, error: Exception) -> ListenError:
    address = format_address(host, port)
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return ListenError(
            f"Port {port} on {host} is in use by another program.",
            hint="Stop that program, or configure another port for tpid.",
        )
    return ListenError(f"This device cannot listen on {address}: {error}.")


def _check_address(host: str, settings: CommSettings) -> None:
    if settings.allow_unencrypted_network or host == "localhost":
        return
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ConfigError(
            f"{host} is not a loopback address, and connections between devices are not encrypted yet.",
            hint="Use 127.0.0.1.",
        )

"""How connections come to be: dialled, or accepted by a listener. Both end with the hello done."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
from collections import Counter
from collections.abc import Callable
from typing import Final

from tpid.comm.connection import Connection, format_address
from tpid.comm.handshake import Handshake
from tpid.comm.messages import Hello
from tpid.comm.settings import CommSettings
from tpid.errors import ConfigError, DeviceLostError, ListenError, TpidError

# Strangers hold a staging buffer each until their hello is late; a home has fewer devices than this.
MAX_OPENING: Final = 64
MAX_OPENING_OF_SOURCE: Final = 16  # from one address

# In one turn of the loop: a hello that has come is read before so many others could take its place.
_ACCEPTS: Final = MAX_OPENING_OF_SOURCE // 4
_BACKLOG: Final = 100  # connections that the system holds until we accept them
# The process or the system has no more descriptors or memory: the next attempt has to wait until others have closed.
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_EXHAUSTED_WAIT_S: Final = 1.0

_logger = logging.getLogger(__name__)


async def dial(host: str, port: int, hello: Callable[[], Hello], settings: CommSettings) -> Connection:
    """Connect to a device; give the connection its receiver before the next await.

    Raises DeviceLostError where nobody answers in time, VersionMismatchError, RefusedError (ours or theirs),
    RemoteProtocolError, and ConfigError for an address that may not be dialled. May be cancelled.
    """
    _check_address(host, settings)
    address = format_address(host, port)
    opened: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()

    def on_failed(_: Connection, error: TpidError) -> None:
        if not opened.done():
            opened.set_exception(error)

    def make_handshake(_: str) -> Handshake:
        return Handshake(hello(), dialled=True, peer_address=address)

    try:
        async with asyncio.timeout(settings.connect_timeout_s):
            sock = await _connect(host, port)
        connection = Connection(sock, make_handshake, settings, on_open=opened.set_result, on_failed=on_failed)
    except TimeoutError:
        seconds = settings.connect_timeout_s
        raise DeviceLostError(f"The device at {address} did not answer within {seconds:g} s.") from None
    except (OSError, UnicodeError, OverflowError) as error:
        raise DeviceLostError(f"The device at {address} cannot be reached: {error}.") from error
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
        on_refused: Callable[[str, TpidError], None],
        settings: CommSettings,
    ) -> None:
        self.port = 0
        self._hello = hello
        self._accept = accept
        self._on_connection = on_connection
        self._on_refused = on_refused
        self._settings = settings
        self._opening: dict[Connection, str] = {}  # with the address that it comes from, the oldest first
        self._sockets: list[socket.socket] = []
        self._retries: set[asyncio.TimerHandle] = set()

    @classmethod
    async def listen(
        cls,
        host: str,
        port: int,
        *,
        hello: Callable[[], Hello],
        accept: Callable[[Hello], None],
        on_connection: Callable[[Connection], None],
        on_refused: Callable[[str, TpidError], None] = lambda address, error: None,
        settings: CommSettings,
    ) -> Listener:
        """Listen on `port`, 0 for any free one.

        `accept` raises a TpidError to refuse a hello. `on_connection` gets each connection that is up and sets its
        receiver, `on_refused` the address and the error of each that is not. Raises ListenError, and ConfigError for
        an address that may not be listened on.
        """
        _check_address(host, settings)
        listener = cls(hello, accept, on_connection, on_refused, settings)
        try:
            listener._sockets = await _bind(host, port)
        except (OSError, UnicodeError, OverflowError) as error:
            raise _listen_error(host, port, error) from error
        listener.port = listener._sockets[0].getsockname()[1]
        for sock in listener._sockets:
            listener._watch(sock)
        return listener

    async def close(self) -> None:
        """Stop listening; connections that are up stay up, those before their hello are cut."""
        for retry in self._retries:
            retry.cancel()
        for sock in self._sockets:
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()
        self._sockets = []
        opening = list(self._opening)
        for connection in opening:
            await connection.close("The device stops listening.")

    def _watch(self, sock: socket.socket) -> None:
        asyncio.get_running_loop().add_reader(sock, self._accept_from, sock)

    def _accept_from(self, server: socket.socket) -> None:
        for _ in range(_ACCEPTS):
            try:
                sock, _address = server.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    _logger.warning("accept_failed port=%d reason=%r", self.port, str(error))
                    loop = asyncio.get_running_loop()
                    loop.remove_reader(server)
                    self._retries = {retry for retry in self._retries if retry.when() > loop.time()}
                    self._retries.add(loop.call_later(_EXHAUSTED_WAIT_S, self._watch, server))
                    return
                continue  # that one is gone again
            self._incoming(sock)

    def _incoming(self, sock: socket.socket) -> None:
        try:
            source = str(sock.getpeername()[0])
            self._make_room(source)
            connection = Connection(sock, self._handshake, self._settings, on_open=self._opened, on_failed=self._failed)
        except OSError as error:  # gone again
            sock.close()
            _logger.info("hello_failed error=os reason=%s", error)
            return
        self._opening[connection] = source

    def _make_room(self, source: str) -> None:
        """A device says its hello at once, so whoever has kept quiet for longest gives way: of the same address first,
        else of the address that has most."""
        of_source = [connection for connection, other in self._opening.items() if other == source]
        if len(of_source) >= MAX_OPENING_OF_SOURCE:
            self._cut(of_source[0])
        elif len(self._opening) >= MAX_OPENING:
            (most, _), *_ = Counter(self._opening.values()).most_common(1)
            self._cut(next(connection for connection, other in self._opening.items() if other == most))

    def _cut(self, connection: Connection) -> None:
        del self._opening[connection]
        connection.abort(DeviceLostError("It said no hello while others wanted to."))

    def _handshake(self, address: str) -> Handshake:
        return Handshake(self._hello(), dialled=False, peer_address=address, accept=self._accept)

    def _opened(self, connection: Connection) -> None:
        self._opening.pop(connection, None)
        self._on_connection(connection)

    def _failed(self, connection: Connection, error: TpidError) -> None:
        self._opening.pop(connection, None)
        self._on_refused(connection.peer_address, error)
        _logger.info("hello_failed peer=%s error=%s reason=%s", connection.peer_address, error.code, error)


async def _connect(host: str, port: int) -> socket.socket:
    """Connected to the first of the host's addresses that answers. Raises the last one's OSError, and gaierror."""
    loop = asyncio.get_running_loop()
    failure = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:  # this system has no IPv6
            failure = error
            continue
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
            return sock
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
    raise failure


async def _bind(host: str, port: int) -> list[socket.socket]:
    """Listening on all addresses of the host."""
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    failure = OSError(f"{host} has no address")
    try:
        for family, kind, protocol, _, address in dict.fromkeys(infos):
            try:
                sock = socket.socket(family, kind, protocol)
            except OSError as error:  # this system has no IPv6
                failure = error
                continue
            sockets.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
            sock.listen(_BACKLOG)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    if not sockets:
        raise failure
    return sockets


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

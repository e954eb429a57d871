"""How connections are accepted: through TLS, to the end of the hello."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections import Counter
from collections.abc import Callable, Collection
from typing import Final

from tpid.comm.channel import Channel, make_unpaced
from tpid.comm.connection import Connection, format_address
from tpid.comm.dialling import check_address
from tpid.comm.handshake import Handshake
from tpid.comm.messages import Hello
from tpid.comm.opening import Purpose
from tpid.comm.settings import CommSettings
from tpid.comm.tls_channel import TlsChannel
from tpid.comm.tls_handshake import answer_tls
from tpid.comm.trust import Proven, Trust
from tpid.comm.unreachable import words_of
from tpid.device import DeviceId
from tpid.errors import DeviceLostError, ListenError, TpidError

# Strangers hold a staging buffer each until their hello is late; a home has fewer devices than this.
MAX_OPENING: Final = 64
MAX_OPENING_OF_SOURCE: Final = 16  # from one address

# In one turn of the loop: a hello that has come is read before so many others could take its place.
_ACCEPTS: Final = MAX_OPENING_OF_SOURCE // 4
_FIRST_FREE_PORT: Final = 1024  # those below are root's
_BACKLOG: Final = 100  # connections that the system holds until we accept them
# The process or the system has no more descriptors or memory: the next attempt has to wait until others have closed.
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_EXHAUSTED_WAIT_S: Final = 1.0

_logger = logging.getLogger(__name__)


class Listener:
    """Accepts connections until closed. What comes to nothing before its hello is logged, and harms nothing.

    With `trust` every connection goes through TLS first; who has an invitation goes to `on_pairing`.
    """

    def __init__(
        self,
        *,
        hello: Callable[[], Hello],
        accept: Callable[[Hello], None],
        on_connection: Callable[[Connection], None],
        on_refused: Callable[[str, TpidError], None],
        settings: CommSettings,
        trust: Trust | None,
        on_pairing: Callable[[TlsChannel, str], None] | None,
        on_units: Callable[[TlsChannel, DeviceId], None] | None,
    ) -> None:
        self.port = 0
        self._hello = hello
        self._accept = accept
        self._on_connection = on_connection
        self._on_refused = on_refused
        self._settings = settings
        self._trust = trust
        self._on_pairing = on_pairing
        self._on_units = on_units
        # Those whose hello is not done, in TLS or behind it, with the address that they come from, the oldest first.
        self._opening: dict[Connection | asyncio.Task[None], str] = {}
        self._sockets: dict[str, list[socket.socket]] = {}  # by the host that they listen on
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
        trust: Trust | None = None,
        on_pairing: Callable[[TlsChannel, str], None] | None = None,
        on_units: Callable[[TlsChannel, DeviceId], None] | None = None,
    ) -> Listener:
        """Listen on `port`, 0 for any free one.

        `accept` raises a TpidError to refuse a hello. `on_connection` gets each connection that is up and sets its
        receiver, `on_refused` the address and the error of each that is not, `on_pairing` each channel of a device
        that wants to pair, `on_units` each of a member that wants units of packs; both own it from then on. Raises
        ListenError, and ConfigError for an address that may not be listened on.
        """
        check_address(host, settings, trust)
        listener = cls(
            hello=hello,
            accept=accept,
            on_connection=on_connection,
            on_refused=on_refused,
            settings=settings,
            trust=trust,
            on_pairing=on_pairing,
            on_units=on_units,
        )
        try:
            sockets = await _bind(host, port)
        except (OSError, UnicodeError, OverflowError) as error:
            raise _listen_error(host, port, error) from error
        listener.port = sockets[0].getsockname()[1]
        listener._add(host, sockets)
        return listener

    @property
    def hosts(self) -> frozenset[str]:
        """What is listened on."""
        return frozenset(self._sockets)

    async def listen_on(self, hosts: Collection[str]) -> dict[str, ListenError]:
        """Listen on these addresses, at the same port, and on no others. Those that cannot be listened on, and why."""
        failed: dict[str, ListenError] = {}
        for host in self.hosts - set(hosts):
            self._remove(host)
        for host in sorted(set(hosts) - self.hosts):
            check_address(host, self._settings, self._trust)
            try:
                self._add(host, await _bind(host, self.port))
            except (OSError, UnicodeError, OverflowError) as error:
                failed[host] = _listen_error(host, self.port, error)
        return failed

    async def close(self) -> None:
        """Stop listening; connections that are up stay up, those before their hello are cut."""
        for retry in self._retries:
            retry.cancel()
        for host in self.hosts:
            self._remove(host)
        for opening in list(self._opening):
            if isinstance(opening, Connection):
                await opening.close("The device stops listening.")
            else:
                opening.cancel()
                await asyncio.wait([opening])

    def _add(self, host: str, sockets: list[socket.socket]) -> None:
        self._sockets[host] = sockets
        for sock in sockets:
            self._watch(sock)

    def _remove(self, host: str) -> None:
        for sock in self._sockets.pop(host):
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()

    def _watch(self, sock: socket.socket) -> None:
        if sock.fileno() >= 0:
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
            sock.setblocking(False)
            source, port = sock.getpeername()[:2]
            self._make_room(source)
            if self._trust is None:
                self._begin_hello(sock, source, None)
                return
        except OSError as error:  # gone again
            sock.close()
            _logger.info("hello_failed error=os reason=%s", error)
            return
        task = asyncio.create_task(self._begin_tls(sock, source, format_address(source, port), self._trust))
        self._opening[task] = source
        task.add_done_callback(lambda task: self._opening.pop(task, None))

    async def _begin_tls(self, sock: socket.socket, source: str, address: str, trust: Trust) -> None:
        try:
            doors = {
                purpose: door
                for purpose, door in trust.doors().items()
                if purpose is not Purpose.PAIRING or self._on_pairing is not None
            }
            purpose, channel = await answer_tls(
                sock, doors, peer_address=address, timeout_s=self._settings.hello_timeout_s
            )
        except TpidError as error:
            sock.close()  # where it did not come to TLS
            self._on_refused(address, error)
            _logger.info("tls_failed peer=%s error=%s reason=%s", address, error.code, error)
            return
        if purpose is Purpose.PAIRING and self._on_pairing is not None:
            self._on_pairing(channel, address)
            return
        proven = trust.proven(channel.peer_certificate)
        if proven is None:  # it was put out in this very moment
            sock.close()
            return
        if purpose is Purpose.UNITS:
            if self._on_units is None:
                sock.close()
            else:
                self._on_units(channel, proven.id)
            return
        try:
            self._begin_hello(channel, source, proven)
        except OSError as error:  # gone again
            sock.close()
            _logger.info("hello_failed error=os reason=%s", error)

    def _begin_hello(self, connected: socket.socket | Channel, source: str, proven: Proven | None) -> None:
        def handshake(address: str) -> Handshake:
            return Handshake(self._hello(), dialled=False, peer_address=address, accept=self._accept, proven=proven)

        connection = Connection(connected, handshake, self._settings, on_open=self._opened, on_failed=self._failed)
        self._opening[connection] = source

    def _make_room(self, source: str) -> None:
        """A device says its hello at once, so whoever has kept quiet for longest gives way: of the same address first,
        else of the address that has most."""
        of_source = [opening for opening, other in self._opening.items() if other == source]
        if len(of_source) >= MAX_OPENING_OF_SOURCE:
            self._cut(of_source[0])
        elif len(self._opening) >= MAX_OPENING:
            (most, _), *_ = Counter(self._opening.values()).most_common(1)
            self._cut(next(opening for opening, other in self._opening.items() if other == most))

    def _cut(self, opening: Connection | asyncio.Task[None]) -> None:
        del self._opening[opening]
        if isinstance(opening, Connection):
            opening.abort(DeviceLostError("It said no hello while others wanted to."))
        else:
            opening.cancel()

    def _opened(self, connection: Connection) -> None:
        self._opening.pop(connection, None)
        self._on_connection(connection)

    def _failed(self, connection: Connection, error: TpidError) -> None:
        self._opening.pop(connection, None)
        self._on_refused(connection.peer_address, error)
        _logger.info("hello_failed peer=%s error=%s reason=%s", connection.peer_address, error.code, error)


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
            make_unpaced(sock)  # and with it all that connect to it
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
    hint = "Configure a port above 1023." if port and port < _FIRST_FREE_PORT else "Configure another port for tpid."
    return ListenError(f"This device cannot listen on {address}: {words_of(error)}.", hint=hint)

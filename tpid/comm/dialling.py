"""How a connection is dialled: to the first of a device's addresses that answers, through TLS, to the hello's end."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeAlias, TypeVar

import aiohappyeyeballs

from tpid.comm.channel import Channel, make_unpaced
from tpid.comm.connection import Connection, format_address
from tpid.comm.handshake import Handshake
from tpid.comm.messages import Hello
from tpid.comm.opening import Purpose
from tpid.comm.settings import CommSettings
from tpid.comm.tls_channel import TlsChannel
from tpid.comm.tls_handshake import Door, dial_tls
from tpid.comm.trust import Proven, Trust
from tpid.comm.unreachable import Endpoint, late, unreachable, unreachable_why, words_of
from tpid.device import DeviceId
from tpid.errors import ConfigError, DeviceLostError, NotPairedError, RemoteProtocolError, TpidError

T = TypeVar("T")
_AddressInfo: TypeAlias = tuple[int, int, int, str, Any]

# Until the next address is tried beside: at once, so that the one with the shortest round trip wins, and a wire before
# the air. At home a try costs nothing.
_NEXT_ADDRESS_S: Final = 0.0005


async def dial(
    endpoints: Sequence[Endpoint],
    hello: Callable[[], Hello],
    settings: CommSettings,
    *,
    trust: Trust | None = None,
    expected: DeviceId | None = None,
) -> Connection:
    """Connect to a device; give the connection its receiver before the next await.

    `endpoints` are all addresses that it may have: they are raced, and where another device answers at one of them, the
    others are tried. With `trust` it must be the `expected` member, or any.

    Raises DeviceLostError where nobody answers in time, NotPairedError, VersionMismatchError, RefusedError (ours or
    theirs), RemoteProtocolError, and ConfigError for an address that may not be dialled. May be cancelled.
    """
    for host, _ in endpoints:
        check_address(host, settings, trust)

    door = trust.door_to(expected) if trust is not None else None

    async def enter(sock: socket.socket, address: str) -> Connection:
        if trust is None or door is None:
            return await _say_hello(sock, None, address, hello, settings)
        timeout_s = settings.hello_timeout_s
        channel = await dial_tls(sock, Purpose.MEMBER, door, peer_address=address, timeout_s=timeout_s)
        proven = trust.proven(channel.peer_certificate)
        if proven is None:  # it was put out in this very moment
            sock.close()
            raise NotPairedError(f"The device at {address} does not belong to this home any more.")
        return await _say_hello(channel, proven, address, hello, settings)

    return await _first(endpoints, settings, enter)


async def knock(endpoint: Endpoint, timeout_s: float) -> str:
    """Whether TCP comes up there: empty if it does, else why not, as a person is told."""
    try:
        async with asyncio.timeout(timeout_s):
            sock = await _connect(await _resolve([endpoint]))
    except TimeoutError:
        return f"no answer within {timeout_s:g} s"
    except (OSError, UnicodeError, OverflowError) as error:
        return unreachable_why(error)
    sock.close()
    return ""


async def dial_to_pair(endpoints: Sequence[Endpoint], door: Door, settings: CommSettings) -> TlsChannel:
    """TLS to a device that has an invitation open. Raises PairingError where it has none, and otherwise like `dial`."""

    async def pair(sock: socket.socket, address: str) -> TlsChannel:
        return await dial_tls(sock, Purpose.PAIRING, door, peer_address=address, timeout_s=settings.hello_timeout_s)

    return await _first(endpoints, settings, pair)


async def dial_for_units(
    endpoints: Sequence[Endpoint], trust: Trust, expected: DeviceId, settings: CommSettings
) -> TlsChannel:
    """TLS to the `expected` member, beside the connection of the two; with the errors of `dial`."""
    door = trust.door_to(expected)

    async def enter(sock: socket.socket, address: str) -> TlsChannel:
        return await dial_tls(sock, Purpose.UNITS, door, peer_address=address, timeout_s=settings.hello_timeout_s)

    return await _first(endpoints, settings, enter)


async def _first(
    endpoints: Sequence[Endpoint], settings: CommSettings, enter: Callable[[socket.socket, str], Awaitable[T]]
) -> T:
    """What `enter` makes of the first address that leads somewhere."""
    names = " or ".join(format_address(*endpoint) for endpoint in endpoints)
    try:
        async with asyncio.timeout(settings.connect_timeout_s):
            candidates = await _resolve(endpoints)
    except TimeoutError:
        raise late(names, endpoints, settings.connect_timeout_s) from None
    except (OSError, UnicodeError, OverflowError) as error:
        raise unreachable(names, error) from error
    failure: TpidError | None = None
    while candidates:
        try:
            async with asyncio.timeout(settings.connect_timeout_s):
                sock = await _connect(candidates)
        except TimeoutError:
            raise failure or late(names, endpoints, settings.connect_timeout_s) from None
        except OSError as error:
            raise failure or unreachable(names, error) from error
        peer = _key(sock.getpeername())
        try:
            return await enter(sock, format_address(*peer))
        except (NotPairedError, RemoteProtocolError, DeviceLostError) as error:
            failure = failure or error
            candidates = [info for info in candidates if _key(info[4]) != peer]
    raise failure or DeviceLostError(f"The device at {names} has no address.")


async def _say_hello(
    connected: socket.socket | Channel,
    proven: Proven | None,
    address: str,
    hello: Callable[[], Hello],
    settings: CommSettings,
) -> Connection:
    """Owns what is connected."""
    opened: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()

    def on_failed(_: Connection, error: TpidError) -> None:
        if not opened.done():
            opened.set_exception(error)

    def make_handshake(_: str) -> Handshake:
        return Handshake(hello(), dialled=True, peer_address=address, proven=proven)

    try:
        connection = Connection(connected, make_handshake, settings, on_open=opened.set_result, on_failed=on_failed)
    except OSError as error:  # gone again
        (connected if isinstance(connected, socket.socket) else connected.sock).close()
        raise DeviceLostError(f"The connection to {address} broke: {words_of(error)}.", hint="Try again.") from error
    try:
        return await opened  # the connection itself sees to it that the hello comes in time
    except asyncio.CancelledError:
        connection.abort(DeviceLostError(f"Dialling {address} was cancelled."))
        raise


async def _resolve(endpoints: Sequence[Endpoint]) -> list[_AddressInfo]:
    """Raises the last OSError where not a single name has an address."""
    loop = asyncio.get_running_loop()
    found: dict[Any, _AddressInfo] = {}
    failure: OSError | None = None
    for host, port in endpoints:
        try:
            for info in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                found.setdefault(info[4], info)
        except OSError as error:
            failure = error
    if not found and failure is not None:
        raise failure
    return list(found.values())


async def _connect(candidates: Sequence[_AddressInfo]) -> socket.socket:
    return await aiohappyeyeballs.start_connection(
        candidates, happy_eyeballs_delay=_NEXT_ADDRESS_S, interleave=1, socket_factory=_unpaced_socket
    )


def _unpaced_socket(address: _AddressInfo) -> socket.socket:
    family, kind, protocol, *_ = address
    sock = socket.socket(family, kind, protocol)
    make_unpaced(sock)
    return sock


def _key(address: tuple[Any, ...]) -> Endpoint:
    """Host without its scope, and port."""
    return str(address[0]).partition("%")[0], int(address[1])


def check_address(host: str, settings: CommSettings, trust: Trust | None) -> None:
    """Raises ConfigError where what is not encrypted would leave this machine."""
    if trust is not None or settings.allow_unencrypted_network or host == "localhost":
        return
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ConfigError(
            f"{host} is not a loopback address, and connections without TLS stay on this machine.",
            hint="Use 127.0.0.1.",
        )

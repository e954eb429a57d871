"""Who is in the house: mDNS, advertised and browsed. The only home of zeroconf.

    what comes in                          what follows
    -------------------------------------  ----------------------------------------------------------------
    announcement of a device               `sighted`, again whenever it changes or is repeated
    announcement taken back, or run out    `vanished`
    unreadable                             counted
    the name of this device is taken       it is announced under another one: the id is in the record
    no multicast, port 5353 not usable     `state` says why; tried again every RETRY_S; nothing else stops

mDNS says where, never who: several names may carry one id, at several addresses, and all of them are told.
"""

import asyncio
import base64
import contextlib
import ipaddress
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from zeroconf import Error as ZeroconfError
from zeroconf import IPVersion, NonUniqueNameException, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from tpid.cluster.address import Address
from tpid.cluster.advert import Advert, decode_advert, encode_advert
from tpid.comm.unreachable import words_of
from tpid.device import DeviceId, DeviceProfile
from tpid.errors import RemoteProtocolError

SERVICE_TYPE = "_tpid._tcp.local."
LOOPBACK = ("127.0.0.1",)
MAX_NAMES = 256  # of services that are looked at; a home has fewer, a flood has more
MAX_ADDRESSES = 8  # of one service
RETRY_S = 30.0  # after discovery failed to start: networks come and go slowly
RESOLVE_TIMEOUT_S = 3.0
GOODBYE_TIMEOUT_S = 2.0
NAMES_AT_ONCE = 3  # that are tried before a pause of RETRY_S; who takes them all answers to any name

_TAKEN: Final = (
    "another device announces the identity of this one; if one is a copy of the other, delete the file identity.pem in "
    "the state directory of one of them, and start its tpid again"
)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sighting:
    """A device was announced under this name, at these addresses."""

    service: str
    addresses: tuple[Address, ...]
    advert: Advert

    @property
    def device_id(self) -> DeviceId:
        return self.advert.id


class Watcher(Protocol):
    """Called on the event loop; must not block or raise."""

    def sighted(self, sighting: Sighting) -> None: ...

    def vanished(self, sighting: Sighting) -> None: ...

    def cloned(self, sighting: Sighting) -> None:
        """It announces this device's id, and is another."""
        ...

    def clone_vanished(self, service: str) -> None:
        """What was announced there is taken back, or is this device itself; perhaps it was never a clone."""
        ...

    def counts(self, device_id: DeviceId) -> bool:
        """Whether it is a device that must not be forgotten for a stranger."""
        ...


@dataclass(frozen=True, slots=True)
class Site:
    """Where this device is announced: multicast is sent from `interfaces`, and tells `addresses` and `port`."""

    interfaces: tuple[str, ...] = LOOPBACK
    addresses: tuple[str, ...] = LOOPBACK
    port: int = 0


class Discovery:
    """Advertises `profile`, and tells the watcher of all others."""

    def __init__(
        self,
        home: str,
        profile: DeviceProfile,
        watcher: Watcher,
        on_change: Callable[[], None],
        *,
        minimal: bool = False,
    ) -> None:
        """`home` is what this device's home is announced as; `minimal` keeps its numbers back."""
        self.state = "starting"
        self._home = home
        self._minimal = minimal
        self._profile = profile
        self._watcher = watcher
        self._on_change = on_change
        self._site = Site()
        self._instance = _label(profile.id)  # the name of the service
        self._name_taken = False
        self._sightings: dict[str, Sighting] = {}  # by service name
        self._unreadable: set[str] = set()
        self._resolving: dict[str, asyncio.Task[None]] = {}
        self._record_changed = asyncio.Event()
        self._site_changed = asyncio.Event()

    @property
    def sightings(self) -> Mapping[str, Sighting]:
        """All devices that are announced but this one, by the name of their service."""
        return self._sightings

    @property
    def n_unreadable(self) -> int:
        """Announcements that no tpid can have made."""
        return len(self._unreadable)

    def update(self, profile: DeviceProfile) -> None:
        self._profile = profile
        self._record_changed.set()

    def move(self, site: Site) -> None:
        """From now on this device is announced there."""
        if site != self._site:
            self._site = site
            self._site_changed.set()

    async def run(self) -> None:
        """Until cancelled; takes the announcement back at the end. Trouble is told by `state`, never raised."""
        while True:
            self._site_changed.clear()
            session = asyncio.create_task(self._session_told(), name="mdns")
            moved = asyncio.create_task(self._site_changed.wait(), name="mdns-moved")
            try:
                await asyncio.wait([session, moved], return_when=asyncio.FIRST_COMPLETED)
                if session.done():  # in trouble
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(RETRY_S):
                            await self._site_changed.wait()
            finally:
                moved.cancel()
                session.cancel()
                await asyncio.wait([session, moved])

    async def _session_told(self) -> None:
        try:
            await self._session()
        except* (OSError, ZeroconfError, RuntimeError) as group:  # the last where an interface has just gone
            self._set_state(f"off: {_first(group)}")

    async def _session(self) -> None:
        site = self._site
        zeroconf = AsyncZeroconf(interfaces=list(site.interfaces), ip_version=_ip_version(site.interfaces))
        try:
            async with asyncio.TaskGroup() as tasks:
                browser = AsyncServiceBrowser(
                    zeroconf.zeroconf,
                    SERVICE_TYPE,
                    handlers=[
                        lambda zeroconf, service_type, name, state_change: self._announced(
                            zeroconf, name, state_change, tasks
                        )
                    ],
                )
                try:
                    await self._advertise(zeroconf, site)
                finally:
                    await browser.async_cancel()
                    for task in self._resolving.values():
                        task.cancel()
        finally:
            await self._close(zeroconf)

    async def _advertise(self, zeroconf: AsyncZeroconf, site: Site) -> None:
        self._record_changed.clear()
        await self._register(zeroconf, site)
        where = f"on: announced on {', '.join(site.addresses)}"
        self._set_state(f"{where} under another name: {_TAKEN}" if self._name_taken else where)
        while True:
            await self._record_changed.wait()
            self._record_changed.clear()
            await (await zeroconf.async_update_service(self._service(site)))

    async def _register(self, zeroconf: AsyncZeroconf, site: Site) -> None:
        """Announce the service, under a name by chance where another device answers to its own."""
        n_taken = 0
        while True:
            try:
                await (await zeroconf.async_register_service(self._service(site)))
                return
            except NonUniqueNameException:
                n_taken, self._name_taken = n_taken + 1, True
                self._instance = f"tpid-{secrets.token_hex(8)}"
            if n_taken % NAMES_AT_ONCE == 0:
                self._set_state(f"not announced, other devices are looked for: {_TAKEN}")
                await asyncio.sleep(RETRY_S)

    async def _close(self, zeroconf: AsyncZeroconf) -> None:
        try:
            async with asyncio.timeout(GOODBYE_TIMEOUT_S):
                await zeroconf.async_unregister_all_services()
        except (OSError, ZeroconfError, TimeoutError) as error:
            _logger.info("mdns_goodbye_failed reason=%s", error)
        finally:
            await zeroconf.async_close()

    def _service(self, site: Site) -> AsyncServiceInfo:
        return AsyncServiceInfo(
            SERVICE_TYPE,
            f"{self._instance}.{SERVICE_TYPE}",
            port=site.port,
            properties=dict(encode_advert(self._profile, self._home, minimal=self._minimal)),
            server=f"{self._instance}.local.",
            parsed_addresses=[address.partition("%")[0] for address in site.addresses],
        )

    def _announced(self, zeroconf: Zeroconf, name: str, change: ServiceStateChange, tasks: asyncio.TaskGroup) -> None:
        if change is ServiceStateChange.Removed:
            self._forget(name)
            return
        known = self._sightings.keys() | self._unreadable | self._resolving.keys()
        if name not in known and len(known) >= MAX_NAMES and not self._make_room():
            return
        try:
            info = AsyncServiceInfo(SERVICE_TYPE, name)
        except ZeroconfError:
            self._unreadable.add(name)
            self._on_change()
            return
        if info.load_from_cache(zeroconf):
            self._resolved(name, info)
        elif name not in self._resolving:
            task = tasks.create_task(self._resolve(zeroconf, name, info), name=f"mdns-resolve-{name}")
            self._resolving[name] = task
            task.add_done_callback(lambda task: self._resolve_done(name, task))

    def _resolve_done(self, name: str, task: asyncio.Task[None]) -> None:
        if self._resolving.get(name) is task:
            del self._resolving[name]

    def _make_room(self) -> bool:
        """Forget a name that leads to no device; else one that leads nowhere yet, then that of a stranger, the oldest
        of its kind. A device that counts is never forgotten for a stranger."""
        if self._unreadable:
            self._unreadable.pop()
            return True
        if self._resolving:
            self._resolving.pop(next(iter(self._resolving))).cancel()
            return True
        for name, sighting in self._sightings.items():
            if not self._watcher.counts(sighting.device_id):
                self._forget(name)
                return True
        return False

    async def _resolve(self, zeroconf: Zeroconf, name: str, info: AsyncServiceInfo) -> None:
        if await info.async_request(zeroconf, RESOLVE_TIMEOUT_S * 1000):
            self._resolved(name, info)

    def _resolved(self, name: str, info: AsyncServiceInfo) -> None:
        hosts = _usable(info.parsed_scoped_addresses())
        try:
            advert = decode_advert(info.properties)
            if not hosts or not info.port:
                raise RemoteProtocolError("It has no address.")
        except RemoteProtocolError as error:
            _logger.debug("mdns_unreadable service=%r reason=%s", name, error)
            self._forget(name)
            self._unreadable.add(name)
            self._on_change()
            return
        addresses = tuple(Address(host, info.port) for host in hosts)
        sighting = Sighting(name, addresses, advert)
        if advert.id == self._profile.id:
            if info.port != self._site.port or advert.name != self._profile.name:
                self._watcher.cloned(sighting)
            else:
                self._watcher.clone_vanished(name)
            return
        self._unreadable.discard(name)
        self._sightings[name] = sighting
        self._watcher.sighted(sighting)

    def _forget(self, name: str) -> None:
        self._unreadable.discard(name)
        sighting = self._sightings.pop(name, None)
        if sighting is not None:
            self._watcher.vanished(sighting)
        self._watcher.clone_vanished(name)
        self._on_change()

    def _set_state(self, state: str) -> None:
        if state != self.state:
            self.state = state
            _logger.info("mdns device=%s state=%s", self._profile.name, state)
            self._on_change()


def _usable(hosts: Sequence[str]) -> list[str]:
    """In the order to try them: IPv4, then IPv6. Loopback leads to another device only where it has nothing else."""
    addresses = {host: ipaddress.ip_address(host) for host in hosts}
    outside = [host for host, address in addresses.items() if not address.is_loopback]
    return sorted(outside or addresses, key=lambda host: addresses[host].version)[:MAX_ADDRESSES]


def _label(device_id: DeviceId) -> str:
    """The id as one label of DNS, which has 63 characters at most."""
    try:
        return base64.b32encode(bytes.fromhex(device_id)).decode("ascii").rstrip("=").lower()
    except ValueError:
        return device_id[:63]


def _ip_version(interfaces: Sequence[str]) -> IPVersion:
    versions = {ipaddress.ip_address(interface).version for interface in interfaces}
    if versions == {4}:
        return IPVersion.V4Only
    return IPVersion.V6Only if versions == {6} else IPVersion.All


def _first(group: BaseExceptionGroup[BaseException]) -> str:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return words_of(error) if isinstance(error, Exception) else type(error).__name__

"""Who is in the house: mDNS, advertised and browsed. The only home of zeroconf.

    what comes in                          what follows
    -------------------------------------  ----------------------------------------------------
    announcement of this cluster           `sighted`, again whenever it changes or is repeated
    announcement taken back, or run out    `vanished`
    of another cluster                     counted
    unreadable                             counted
    the name of this device is taken       it is announced under another one; the id is in the record, not in the name
    no multicast, port 5353 not usable     `state` says why; tried again every RETRY_S; nothing else stops

mDNS says where, never who: several names may carry one id, at several addresses, and all of them are told. Until
pairing exists it is sent on the loopback interface only.
"""

import asyncio
import ipaddress
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from zeroconf import Error as ZeroconfError
from zeroconf import NonUniqueNameException, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from tpid.cluster.address import Address
from tpid.cluster.advert import Advert, decode_advert, encode_advert
from tpid.device import DeviceId, DeviceProfile
from tpid.errors import RemoteProtocolError

SERVICE_TYPE = "_tpid._tcp.local."
LOOPBACK = ("127.0.0.1",)
MAX_NAMES = 256  # of services that are looked at; a home has fewer, a flood has more
RETRY_S = 30.0  # after discovery failed to start: networks come and go slowly
RESOLVE_TIMEOUT_S = 3.0
GOODBYE_TIMEOUT_S = 2.0
NAMES_AT_ONCE = 3  # that are tried before a pause of RETRY_S; who takes them all answers to any name

_TAKEN: Final = (
    "another device announces the device-id of this one; if one is a copy of the other, delete the file device-id in "
    "the state directory of one of them, and start its tpid again"
)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sighting:
    """A device of this cluster was announced at this address."""

    address: Address
    advert: Advert

    @property
    def device_id(self) -> DeviceId:
        return self.advert.id

    @property
    def key(self) -> tuple[DeviceId, Address]:
        return self.advert.id, self.address


class Watcher(Protocol):
    """Called on the event loop; must not block or raise."""

    def sighted(self, sighting: Sighting) -> None: ...

    def vanished(self, sighting: Sighting) -> None: ...

    def cloned(self, sighting: Sighting) -> None: ...

    def has_met(self, device_id: DeviceId) -> bool:
        """Whether the device has been connected."""
        ...


class Discovery:
    """Advertises `profile` at `port`, and tells the watcher of others of the same cluster."""

    def __init__(
        self,
        cluster: str,
        profile: DeviceProfile,
        watcher: Watcher,
        on_change: Callable[[], None],
        interfaces: Sequence[str] = LOOPBACK,
    ) -> None:
        self.state = "starting"
        self._cluster = cluster
        self._profile = profile
        self._watcher = watcher
        self._on_change = on_change
        self._interfaces = list(interfaces)
        self._port = 0
        self._instance: str = profile.id  # the name of the service
        self._name_taken = False
        self._sightings: dict[str, Sighting] = {}  # by service name
        self._others: set[str] = set()
        self._unreadable: set[str] = set()
        self._resolving: dict[str, asyncio.Task[None]] = {}
        self._profile_changed = asyncio.Event()

    @property
    def n_other_clusters(self) -> int:
        """Devices of other clusters that are announced."""
        return len(self._others)

    @property
    def n_unreadable(self) -> int:
        """Announcements that no tpid can have made."""
        return len(self._unreadable)

    def update(self, profile: DeviceProfile) -> None:
        self._profile = profile
        self._profile_changed.set()

    async def run(self, port: int) -> None:
        """Until cancelled; takes the announcement back at the end. Trouble is told by `state`, never raised."""
        self._port = port
        while True:
            try:
                await self._session()
            except* (OSError, ZeroconfError) as group:
                self._set_state(f"off: {_first(group)}")
            await asyncio.sleep(RETRY_S)

    async def _session(self) -> None:
        zeroconf = AsyncZeroconf(interfaces=self._interfaces)
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
                    await self._advertise(zeroconf)
                finally:
                    await browser.async_cancel()
                    for task in self._resolving.values():
                        task.cancel()
        finally:
            await self._close(zeroconf)

    async def _advertise(self, zeroconf: AsyncZeroconf) -> None:
        self._profile_changed.clear()
        await self._register(zeroconf)
        where = f"on: announced on {', '.join(self._interfaces)}"
        self._set_state(f"{where} under another name: {_TAKEN}" if self._name_taken else where)
        while True:
            await self._profile_changed.wait()
            self._profile_changed.clear()
            await (await zeroconf.async_update_service(self._service()))

    async def _register(self, zeroconf: AsyncZeroconf) -> None:
        """Announce the service, under a name by chance where another device answers to its own."""
        n_taken = 0
        while True:
            try:
                await (await zeroconf.async_register_service(self._service()))
                return
            except NonUniqueNameException:
                n_taken, self._name_taken = n_taken + 1, True
                self._instance = f"{self._profile.id}-{secrets.token_hex(4)}"
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

    def _service(self) -> AsyncServiceInfo:
        return AsyncServiceInfo(
            SERVICE_TYPE,
            f"{self._instance}.{SERVICE_TYPE}",
            port=self._port,
            properties=dict(encode_advert(self._profile, self._cluster)),
            server=f"{self._instance}.local.",
            parsed_addresses=self._interfaces,
        )

    def _announced(self, zeroconf: Zeroconf, name: str, change: ServiceStateChange, tasks: asyncio.TaskGroup) -> None:
        if change is ServiceStateChange.Removed:
            self._forget(name)
            return
        known = self._sightings.keys() | self._others | self._unreadable | self._resolving.keys()
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
        """Forget a name that leads to no device of this cluster; else one that leads nowhere yet, then one that led
        to no connection, then one of several with the same id, the oldest of its kind. The only name of a device that
        was connected once is never forgotten for a stranger."""
        for names in (self._unreadable, self._others):
            if names:
                names.pop()
                return True
        if self._resolving:
            self._resolving.pop(next(iter(self._resolving))).cancel()
            return True
        n_names = Counter(sighting.device_id for sighting in self._sightings.values())
        for has_met in (False, True):
            for name, sighting in self._sightings.items():
                device_id = sighting.device_id
                if self._watcher.has_met(device_id) is has_met and (not has_met or n_names[device_id] > 1):
                    self._forget(name)
                    return True
        return False

    async def _resolve(self, zeroconf: Zeroconf, name: str, info: AsyncServiceInfo) -> None:
        if await info.async_request(zeroconf, RESOLVE_TIMEOUT_S * 1000):
            self._resolved(name, info)

    def _resolved(self, name: str, info: AsyncServiceInfo) -> None:
        host = _best_host(info.parsed_scoped_addresses())
        try:
            advert = decode_advert(info.properties)
            if host is None or not info.port:
                raise RemoteProtocolError("It has no address.")
        except RemoteProtocolError as error:
            _logger.debug("mdns_unreadable service=%r reason=%s", name, error)
            self._forget(name)
            self._unreadable.add(name)
            self._on_change()
            return
        if advert.id == self._profile.id:
            self._forget(name)
            if info.port != self._port or advert.name != self._profile.name:
                self._watcher.cloned(Sighting(Address(host, info.port), advert))
            return
        if advert.cluster != self._cluster:
            self._forget(name)
            self._others.add(name)
            self._on_change()
            return
        self._others.discard(name)
        self._unreadable.discard(name)
        before = self._sightings.get(name)
        self._sightings[name] = sighting = Sighting(Address(host, info.port), advert)
        if before is not None and before.key != sighting.key:
            self._vanished(before)
        self._watcher.sighted(sighting)

    def _forget(self, name: str) -> None:
        self._others.discard(name)
        self._unreadable.discard(name)
        sighting = self._sightings.pop(name, None)
        if sighting is not None:
            self._vanished(sighting)
        self._on_change()

    def _vanished(self, sighting: Sighting) -> None:
        if all(other.key != sighting.key for other in self._sightings.values()):
            self._watcher.vanished(sighting)

    def _set_state(self, state: str) -> None:
        if state != self.state:
            self.state = state
            _logger.info("mdns device=%s state=%s", self._profile.name, state)
            self._on_change()


def _best_host(hosts: Sequence[str]) -> str | None:
    """Loopback first, then IPv4; None if there is no address."""

    def rank(host: str) -> tuple[bool, int]:
        address = ipaddress.ip_address(host)
        return (not address.is_loopback, address.version)

    return min(hosts, key=rank, default=None)


def _first(group: BaseExceptionGroup[BaseException]) -> str:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__

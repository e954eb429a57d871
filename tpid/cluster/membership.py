"""Connections to the other devices: one a pair, dialled, kept, dialled again.

who dials                      when
-----------------------------  -----------------------------------------------------------------
the device with the lower id   a member of the home is announced, or was reached somewhere before,
                               and they are not connected
the one with the higher id     the same, and the other has not come within HIGHER_WAITS_S: it may
                               know of this one what that one does not know of it
who has it as a static peer    not connected to the device at that address
after a failure or a loss      backoff with chance, cut short when mDNS announces the device again,
                               and when this device's own addresses change
nobody                         a stranger; a device of another protocol version; our own address

two connections of one pair    which stays
-----------------------------  -----------------------------------------------------------------
dialled by both within 3 s     the one that the lower id dialled; both ends know which
any other                      the older: a second hello proves nothing. That of a device that has
                               started anew ends by a reset at the next ping, or by silence
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from tpid.clock import awake_or_asleep_s
from tpid.cluster.address import Address
from tpid.cluster.backoff import Backoff
from tpid.cluster.changed import Changed
from tpid.cluster.clone_notice import CloneNotice
from tpid.cluster.discovery import Sighting
from tpid.cluster.home import Home
from tpid.cluster.long_lived import lives
from tpid.cluster.status import FailedDial
from tpid.cluster.whereabouts import Whereabouts
from tpid.comm.connection import Connection, Receiver
from tpid.comm.dialling import dial
from tpid.comm.handshake import CLONED, SELF
from tpid.comm.messages import PROTOCOL_VERSION, Hello
from tpid.comm.settings import CommSettings
from tpid.device import DeviceId
from tpid.errors import DeviceLostError, NotPairedError, RefusedError, TpidError, VersionMismatchError

STEADY_S: Final = 10.0  # a connection that lasted this long was no failure
HIGHER_WAITS_S: Final = 1.0
DUPLICATE: Final = "duplicate"  # code of a refusal: the pair has a connection already
# Two devices that find each other at the same time dial each other: within this time one of the two connections, the
# same on both sides, gives way to the other. Later the one that is there stays: a second hello proves nothing.
SIMULTANEOUS_S: Final = 3.0
MAX_MET: Final = 256  # devices that were connected once; the one that came first is forgotten first

_logger = logging.getLogger(__name__)


class Owner(Receiver, Protocol):
    """Gets all frames, and what becomes of connections. Called on the event loop; must not block."""

    def joined(self, connection: Connection) -> None: ...


@dataclass(slots=True)
class _Target:
    """A device, or an address of the configuration, that is dialled."""

    label: str  # for people and logs
    address: Address | None  # of the configuration
    device_id: DeviceId | None = None  # of an address: who has answered there
    name: str | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Membership:
    """Owns the connections. Its tasks run in the group of the cluster."""

    def __init__(
        self,
        *,
        me: DeviceId,
        home: Home | None,
        group: str,
        hello: Callable[[], Hello],
        owner: Owner,
        changed: Changed,
        settings: CommSettings,
        backoff: Backoff,
        chance: random.Random,
        whereabouts: Whereabouts,
    ) -> None:
        """Without a `home`, whoever announces `group` is dialled."""
        self._me = me
        self._home = home
        self._group = group
        self._hello = hello
        self._owner = owner
        self._changed = changed
        self._settings = settings
        self._backoff = backoff
        self._chance = chance
        self._whereabouts = whereabouts
        self._tasks: asyncio.TaskGroup | None = None
        self._peers: dict[DeviceId, Connection] = {}
        self._since_s: dict[DeviceId, float] = {}  # when each was adopted
        self._targets: dict[str, _Target] = {}  # by device id, or by address
        self._sightings: dict[DeviceId, dict[str, Sighting]] = {}  # by the name of the service
        self._failed: dict[str, FailedDial] = {}  # by the key of the target
        self._clone = CloneNotice()
        self._met: dict[DeviceId, None] = {}

    @property
    def peers(self) -> Mapping[DeviceId, Connection]:
        return self._peers

    @property
    def sightings(self) -> list[Sighting]:
        """Those of this home's devices, and of such as may have just become so; one a device."""
        return [
            next(iter(services.values()))
            for device, services in self._sightings.items()
            if self._counts_to_home(device, next(iter(services.values())))
        ]

    @property
    def n_strangers(self) -> int:
        """Devices of other homes that are announced."""
        return len(self._sightings) - len(self.sightings)

    @property
    def failed(self) -> list[FailedDial]:
        """The last failure of each device or address that is not connected, and the device that has this one's id."""
        clone = self._clone.at(awake_or_asleep_s())
        return [*self._failed.values(), *([clone] if clone is not None else [])]

    def addresses_of(self, device_id: DeviceId) -> list[Address]:
        """Where it may be, as it is known now: announced, then where it was before."""
        sightings = self._sightings.get(device_id, {}).values()
        announced = [address for sighting in sightings for address in sighting.addresses]
        return list(dict.fromkeys([*announced, *self._whereabouts.of(device_id)]))

    def start(self, tasks: asyncio.TaskGroup, static_peers: tuple[Address, ...]) -> None:
        self._tasks = tasks
        for address in static_peers:
            self._add(str(address), _Target(str(address), address))
        self.roster_changed()

    async def stop(self, reason: str) -> None:
        """Dial no more and say goodbye to all, within the close timeout of a connection."""
        self._tasks = None
        for target in self._targets.values():
            if target.task is not None:
                target.task.cancel()
        self._targets.clear()
        async with asyncio.TaskGroup() as closing:
            for connection in list(self._peers.values()):
                closing.create_task(connection.close(reason), name=f"close-{connection.peer_address}")

    # --- who belongs to the home

    def roster_changed(self) -> None:
        """Cut off who was put out, and look for who has come."""
        if self._home is None:
            return
        members = self._home.members
        for device_id, connection in list(self._peers.items()):
            if device_id not in members and self._tasks is not None and not connection.closed:
                _logger.warning("put_out device=%s peer=%s", self._me, device_id)
                closing = connection.close("It does not belong to this home any more.")
                self._tasks.create_task(closing, name=f"close-{connection.peer_address}")
        for key, target in list(self._targets.items()):
            if target.address is None and target.device_id not in members:
                self._remove(key)
        for device_id, member in members.items():
            if device_id != self._me:
                self._look_for(device_id, member.name)

    def network_changed(self) -> None:
        """This device has other addresses: what could not be reached may be reached now."""
        for target in self._targets.values():
            target.wake.set()

    def _look_for(self, device_id: DeviceId, name: str) -> None:
        """Dial it, now and whenever it is not connected, wherever it may be."""
        target = self._targets.get(device_id)
        if target is None:
            self._add(device_id, _Target(name, None, device_id, name))
        else:
            target.name = target.label = name
            target.wake.set()

    def _counts_to_home(self, device_id: DeviceId, sighting: Sighting) -> bool:
        """Of a device of another version nobody knows."""
        if sighting.advert.protocol_version != PROTOCOL_VERSION:
            return True
        if self._home is None:
            return sighting.advert.home == self._group
        return device_id in self._home.members or sighting.advert.home == self._home.fingerprint

    # --- mDNS (the watcher of discovery)

    def sighted(self, sighting: Sighting) -> None:
        advert, device_id = sighting.advert, sighting.device_id
        self._sightings.setdefault(device_id, {})[sighting.service] = sighting
        if advert.protocol_version != PROTOCOL_VERSION:
            older = "that device" if advert.protocol_version < PROTOCOL_VERSION else "this device"
            self._note_failure(
                device_id,
                str(sighting.addresses[0]),
                advert.name,
                VersionMismatchError(
                    f"Device {advert.name} at {sighting.addresses[0]} speaks version {advert.protocol_version} of the "
                    f"protocol, this device version {PROTOCOL_VERSION}.",
                    hint=f"Upgrade tpid on {older}.",
                ),
            )
            return
        for target in self._targets.values():
            if target.address in sighting.addresses:
                target.device_id, target.name = device_id, advert.name
                target.wake.set()
        if self._home is None:
            if advert.home == self._group:
                self._look_for(device_id, advert.name)
        elif (member := self._home.members.get(device_id)) is not None:
            self._look_for(device_id, member.name)
        self._changed.notify()

    def vanished(self, sighting: Sighting) -> None:
        """Its connection, if there is one, stays: it knows better."""
        services = self._sightings.get(sighting.device_id, {})
        services.pop(sighting.service, None)
        if not services:
            self._sightings.pop(sighting.device_id, None)
            self._failed.pop(sighting.device_id, None)
            if self._home is None:
                self._remove(sighting.device_id)
        self._changed.notify()

    def counts(self, device_id: DeviceId) -> bool:
        return device_id in self._met if self._home is None else device_id in self._home.members

    # --- connections (what the listener asks and brings)

    def accept(self, hello: Hello) -> None:
        """Raises NotPairedError for who was put out meanwhile, and RefusedError for a second connection of a pair that
        the first one outranks."""
        if not self._belongs(hello.profile.id):
            raise _put_out(hello.profile.name)
        existing = self._open(hello.profile.id)
        if existing is not None and self._stays(existing, outgoing=False):
            raise RefusedError(
                f"Device {hello.profile.name} is connected already at {existing.peer_address}.",
                reason_code=DUPLICATE,
            )

    def adopt(self, connection: Connection) -> None:
        """Take a connection that is up."""
        if self._tasks is None:
            connection.abort(DeviceLostError("This device leaves the cluster."))
            return
        if not self._belongs(connection.peer.id):
            connection.abort(_put_out(connection.peer.name))
            return
        existing = self._open(connection.peer.id)
        if existing is not None:
            error = DeviceLostError(f"Another connection to device {connection.peer.name} took its place.")
            if self._stays(existing, outgoing=connection.outgoing):
                connection.abort(error)
                return
            self._drop(existing, error)
        self._peers[connection.peer.id] = connection
        self._meet(connection.peer.id)
        self._since_s[connection.peer.id] = asyncio.get_running_loop().time()
        connection.set_receiver(self._owner)
        _logger.info(
            "peer_joined device=%s peer=%s address=%s dialled=%s",
            self._me,
            connection.peer.id,
            connection.peer_address,
            connection.outgoing,
        )
        self._reached(connection)
        self._owner.joined(connection)
        self._changed.notify()

    def refused(self, address: str, error: TpidError) -> None:
        """A hello that the listener has refused: what its owner must know of is shown to people."""
        if isinstance(error, RefusedError) and error.reason_code == CLONED:
            self._met_clone(address, str(error))

    def cloned(self, sighting: Sighting) -> None:
        """Another device announces this device's id."""
        reason = (
            f"Device {sighting.advert.name} announces the identity of this device: one is a copy of the other. "
            "Delete the file identity.pem in the state directory of one of them, and start its tpid again."
        )
        self._log_clone(reason)
        self._clone.announced(sighting.service, str(sighting.addresses[0]), reason)
        self._changed.notify()

    def clone_vanished(self, service: str) -> None:
        if self._clone.vanished(service):
            self._changed.notify()

    def forget(self, connection: Connection, error: TpidError) -> bool:
        """The connection is lost; False if it was not the one of its pair any more."""
        if self._peers.get(connection.peer.id) is not connection:
            return False
        del self._peers[connection.peer.id], self._since_s[connection.peer.id]
        _logger.info("peer_lost device=%s peer=%s reason=%s", self._me, connection.peer.id, error)
        self._changed.notify()
        return True

    def _belongs(self, device_id: DeviceId) -> bool:
        return self._home is None or device_id in self._home.members

    def _reached(self, connection: Connection) -> None:
        """Remember where: of who has dialled this device, where it says that it listens."""
        for key in (connection.peer.id, connection.peer_address):
            self._failed.pop(key, None)
        if self._home is None or not connection.peer_port:
            return
        host, _, _ = connection.peer_address.rpartition(":")
        self._whereabouts.reached(connection.peer.id, Address(host.strip("[]"), connection.peer_port))

    def _meet(self, device_id: DeviceId) -> None:
        self._met.pop(device_id, None)
        while len(self._met) >= MAX_MET:
            del self._met[next(iter(self._met))]
        self._met[device_id] = None

    def _open(self, device_id: DeviceId) -> Connection | None:
        """The connection to the device; one that is closing is dropped here and now."""
        connection = self._peers.get(device_id)
        if connection is not None and connection.closed:
            self._drop(connection, DeviceLostError(f"The connection to {connection.peer.name} has ended."))
            return None
        return connection

    def _drop(self, connection: Connection, error: TpidError) -> None:
        connection.abort(error)
        self._owner.lost(connection, error)  # now, not in a later turn of the loop: another one follows

    def _stays(self, existing: Connection, *, outgoing: bool) -> bool:
        """Whether it stays where another one to the same device, dialled by us or not, is up. Of two that cross each
        other it is the one that the lower id has dialled."""
        age_s = asyncio.get_running_loop().time() - self._since_s[existing.peer.id]
        crossed = existing.outgoing != outgoing and age_s < SIMULTANEOUS_S
        return not crossed or existing.outgoing == (self._me < existing.peer.id)

    # --- dialling

    def _add(self, key: str, target: _Target) -> None:
        if self._tasks is None or key in self._targets:
            return
        self._targets[key] = target
        name = f"dial-{target.label}"
        target.task = self._tasks.create_task(lives(name, lambda: self._keep_connected(key, target)), name=name)

    def _remove(self, key: str) -> None:
        target = self._targets.pop(key, None)
        self._failed.pop(key, None)
        if target is not None and target.task is not None:
            target.task.cancel()

    def _connected(self, target: _Target) -> bool:
        connection = self._peers.get(target.device_id) if target.device_id is not None else None
        return connection is not None and not connection.closed

    def _addresses(self, target: _Target) -> list[Address]:
        if target.address is not None:
            return [target.address]
        return self.addresses_of(target.device_id) if target.device_id is not None else []

    async def _keep_connected(self, key: str, target: _Target) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            await self._changed.wait_for(lambda: not self._connected(target))
            if target.address is None and target.device_id is not None and self._me > target.device_id:
                await asyncio.sleep(HIGHER_WAITS_S)
                if self._connected(target):
                    continue
            target.wake.clear()
            addresses = self._addresses(target)
            if not addresses:
                await target.wake.wait()
                continue
            try:
                connection = await dial(
                    [(address.host, address.port) for address in addresses],
                    self._hello,
                    self._settings,
                    trust=self._home,
                    expected=target.device_id if target.address is None else None,
                )
            except TpidError as error:
                if isinstance(error, RefusedError) and error.reason_code == SELF:
                    _logger.info("static_peer_is_self device=%s address=%s", self._me, target.label)
                    return
                self._dial_failed(key, target, addresses, error)
                failures += 1
            else:
                target.device_id, target.name = connection.peer.id, connection.peer.name
                self._failed.pop(key, None)
                since_s = loop.time()
                self.adopt(connection)
                await self._changed.wait_for(lambda: not self._connected(target))
                failures = 0 if loop.time() - since_s >= STEADY_S else failures + 1
            await self._pause(target, failures)

    async def _pause(self, target: _Target, failures: int) -> None:
        try:
            async with asyncio.timeout(self._backoff.delay_s(max(0, failures - 1), self._chance.random())):
                await target.wake.wait()
        except TimeoutError:
            pass

    def _dial_failed(self, key: str, target: _Target, addresses: list[Address], error: TpidError) -> None:
        where = " or ".join(map(str, addresses))
        if isinstance(error, RefusedError) and error.reason_code == CLONED:
            self._met_clone(where, str(error))
        elif self._connected(target) or (isinstance(error, RefusedError) and error.reason_code == DUPLICATE):
            pass  # it came by another way meanwhile
        elif target.address is None and target.device_id not in self._sightings:
            # Where it was once: that nobody is there now is no news.
            _logger.debug("not_found device=%s peer=%s reason=%s", self._me, target.device_id, error)
        else:
            self._note_failure(key, where, target.name, error)

    def _met_clone(self, address: str, reason: str) -> None:
        self._log_clone(reason)
        self._clone.met(address, reason, awake_or_asleep_s())
        self._changed.notify()

    def _log_clone(self, reason: str) -> None:
        if self._clone.at(awake_or_asleep_s()) is None:  # once, however often they meet
            _logger.warning("cloned device=%s reason=%r", self._me, reason)

    def _note_failure(self, key: str, address: str, name: str | None, error: TpidError) -> None:
        code = error.reason_code if isinstance(error, RefusedError) else error.code
        failed = FailedDial(address, name, code, str(error))
        if self._failed.get(key) != failed:  # once a change, however often it is tried
            self._failed[key] = failed
            _logger.warning("dial_failed device=%s address=%s code=%s reason=%s", self._me, address, code, error)
            self._changed.notify()


def _put_out(name: str) -> NotPairedError:
    return NotPairedError(
        f"Device {name} does not belong to this home any more.",
        hint="Pair it: `tpictl invite` here, `tpictl join CODE` there.",
    )

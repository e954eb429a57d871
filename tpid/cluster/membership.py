"""Connections to the other devices: one a pair, dialled, kept, dialled again.

who dials                      when
-----------------------------  -----------------------------------------------------------------
the device with the lower id   mDNS shows the other one and they are not connected
the other one of the two       they are still not connected SECOND_DIALS_S later: mDNS may show but
                               one of them to the other
who has it as a static peer    not connected to the device at that address
after a failure or a loss      backoff with chance, cut short when mDNS announces the device again
nobody                         a device of another protocol version; our own address

two connections of one pair    which stays
-----------------------------  -----------------------------------------------------------------
dialled by both within 3 s     the one that the lower id dialled; both ends know which
any other                      the older: a second hello proves nothing. That of a device that has
                               started anew ends by a reset at the next ping, or by silence
"""

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from tpid.cluster.address import Address
from tpid.cluster.backoff import Backoff
from tpid.cluster.changed import Changed
from tpid.cluster.discovery import Sighting
from tpid.cluster.long_lived import lives
from tpid.cluster.status import FailedDial
from tpid.comm.connection import Connection, Receiver
from tpid.comm.handshake import CLONED, SELF
from tpid.comm.listener import dial
from tpid.comm.messages import PROTOCOL_VERSION, Hello
from tpid.comm.settings import CommSettings
from tpid.device import DeviceId
from tpid.errors import DeviceLostError, RefusedError, TpidError, VersionMismatchError

STEADY_S: Final = 10.0  # a connection that lasted this long was no failure
DUPLICATE: Final = "duplicate"  # code of a refusal: the pair has a connection already
# Two devices that find each other at the same time dial each other: within this time one of the two connections, the
# same on both sides, gives way to the other. Later the one that is there stays: a second hello proves nothing.
SIMULTANEOUS_S: Final = 3.0
SECOND_DIALS_S: Final = 5.0  # after the device with the lower id could have dialled
MAX_MET: Final = 256  # devices that were connected once; the one that came first is forgotten first

_logger = logging.getLogger(__name__)


class Owner(Receiver, Protocol):
    """Gets all frames, and what becomes of connections. Called on the event loop; must not block."""

    def joined(self, connection: Connection) -> None: ...


@dataclass(slots=True)
class _Target:
    """An address that is dialled."""

    address: Address
    static: bool
    device_id: DeviceId | None = None
    name: str | None = None
    second: bool = False  # lets the other device dial first
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Membership:
    """Owns the connections. Its tasks run in the group of the cluster."""

    def __init__(
        self,
        *,
        me: DeviceId,
        hello: Callable[[], Hello],
        owner: Owner,
        changed: Changed,
        settings: CommSettings,
        backoff: Backoff,
        chance: random.Random,
    ) -> None:
        self._me = me
        self._hello = hello
        self._owner = owner
        self._changed = changed
        self._settings = settings
        self._backoff = backoff
        self._chance = chance
        self._tasks: asyncio.TaskGroup | None = None
        self._peers: dict[DeviceId, Connection] = {}
        self._since_s: dict[DeviceId, float] = {}  # when each was adopted
        self._targets: dict[Address, _Target] = {}
        self._sightings: dict[tuple[DeviceId, Address], Sighting] = {}
        self._failed: dict[Address, FailedDial] = {}
        self._clone: FailedDial | None = None
        self._met: dict[DeviceId, None] = {}

    @property
    def peers(self) -> Mapping[DeviceId, Connection]:
        return self._peers

    @property
    def sightings(self) -> Collection[Sighting]:
        return self._sightings.values()

    @property
    def failed(self) -> list[FailedDial]:
        """The last failure of each address that is not connected, and the device that has this one's id."""
        clone = [self._clone] if self._clone is not None else []
        return [*self._failed.values(), *clone]

    def start(self, tasks: asyncio.TaskGroup, static_peers: tuple[Address, ...]) -> None:
        self._tasks = tasks
        for address in static_peers:
            self._add(_Target(address, static=True))

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

    # --- mDNS (the watcher of discovery)

    def sighted(self, sighting: Sighting) -> None:
        self._sightings[sighting.key] = sighting
        advert, address = sighting.advert, sighting.address
        if advert.protocol_version != PROTOCOL_VERSION:
            older = "that device" if advert.protocol_version < PROTOCOL_VERSION else "this device"
            self._note_failure(
                address,
                advert.name,
                VersionMismatchError(
                    f"Device {advert.name} at {address} speaks version {advert.protocol_version} of the protocol, "
                    f"this device version {PROTOCOL_VERSION}.",
                    hint=f"Upgrade tpid on {older}.",
                ),
            )
            return
        target = self._targets.get(address)
        if target is None:
            second = self._me > sighting.device_id
            self._add(_Target(address, False, sighting.device_id, advert.name, second))
        else:
            if not self._connected(target):
                target.device_id, target.name = sighting.device_id, advert.name
            target.wake.set()
        self._changed.notify()

    def vanished(self, sighting: Sighting) -> None:
        """Its connection, if there is one, stays: it knows better."""
        if self._sightings.pop(sighting.key, None) is None:
            return
        target = self._targets.get(sighting.address)
        announced = any(other.address == sighting.address for other in self._sightings.values())  # by another name
        if not announced and (target is None or not target.static):
            self._failed.pop(sighting.address, None)
            if target is not None:
                del self._targets[sighting.address]
                if target.task is not None:
                    target.task.cancel()
        self._changed.notify()

    def has_met(self, device_id: DeviceId) -> bool:
        return device_id in self._met

    # --- connections (what the listener asks and brings)

    def accept(self, hello: Hello) -> None:
        """Raises RefusedError for a second connection of a pair that the first one outranks."""
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
        for target in self._targets.values():
            if target.device_id == connection.peer.id:  # where else it was looked for does not matter now
                self._failed.pop(target.address, None)
        connection.set_receiver(self._owner)
        _logger.info(
            "peer_joined device=%s peer=%s address=%s dialled=%s",
            self._me,
            connection.peer.id,
            connection.peer_address,
            connection.outgoing,
        )
        self._owner.joined(connection)
        self._changed.notify()

    def refused(self, address: str, error: TpidError) -> None:
        """A hello that the listener has refused: what its owner must know of is shown to people."""
        if isinstance(error, RefusedError) and error.reason_code == CLONED:
            self._note_clone(address, str(error))

    def cloned(self, sighting: Sighting) -> None:
        """Another device announces this device's id."""
        self._note_clone(
            str(sighting.address),
            f"Device {sighting.advert.name} announces the device-id of this device: one is a copy of the other. "
            "Delete the file device-id in the state directory of one of them, and start its tpid again.",
        )

    def forget(self, connection: Connection, error: TpidError) -> bool:
        """The connection is lost; False if it was not the one of its pair any more."""
        if self._peers.get(connection.peer.id) is not connection:
            return False
        del self._peers[connection.peer.id], self._since_s[connection.peer.id]
        _logger.info("peer_lost device=%s peer=%s reason=%s", self._me, connection.peer.id, error)
        self._changed.notify()
        return True

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

    def _add(self, target: _Target) -> None:
        if self._tasks is None or target.address in self._targets:
            return
        self._targets[target.address] = target
        name = f"dial-{target.address}"
        target.task = self._tasks.create_task(lives(name, lambda: self._keep_connected(target)), name=name)

    def _connected(self, target: _Target) -> bool:
        connection = self._peers.get(target.device_id) if target.device_id is not None else None
        return connection is not None and not connection.closed

    async def _keep_connected(self, target: _Target) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            await self._changed.wait_for(lambda: not self._connected(target))
            if target.second and await self._dials_us(target):
                continue
            target.wake.clear()
            try:
                connection = await dial(target.address.host, target.address.port, self._hello, self._settings)
            except TpidError as error:
                if isinstance(error, RefusedError) and error.reason_code == SELF:
                    _logger.info("static_peer_is_self device=%s address=%s", self._me, target.address)
                    return
                if isinstance(error, RefusedError) and error.reason_code == CLONED:
                    self._note_clone(str(target.address), str(error))
                elif not (isinstance(error, RefusedError) and error.reason_code == DUPLICATE):
                    self._note_failure(target.address, target.name, error)
                failures += 1
            else:
                target.device_id, target.name = connection.peer.id, connection.peer.name
                self._failed.pop(target.address, None)
                since_s = loop.time()
                self.adopt(connection)
                await self._changed.wait_for(lambda: not self._connected(target))
                failures = 0 if loop.time() - since_s >= STEADY_S else failures + 1
            await self._pause(target, failures)

    async def _dials_us(self, target: _Target) -> bool:
        """Whether the device makes the connection itself, within the time that it has for that."""
        try:
            async with asyncio.timeout(SECOND_DIALS_S):
                await self._changed.wait_for(lambda: self._connected(target))
        except TimeoutError:
            return False
        return True

    async def _pause(self, target: _Target, failures: int) -> None:
        try:
            async with asyncio.timeout(self._backoff.delay_s(max(0, failures - 1), self._chance.random())):
                await target.wake.wait()
        except TimeoutError:
            pass

    def _note_clone(self, address: str, reason: str) -> None:
        if self._clone is None:
            _logger.warning("cloned device=%s reason=%r", self._me, reason)
        self._clone = FailedDial(address, None, CLONED, reason)
        self._changed.notify()

    def _note_failure(self, address: Address, name: str | None, error: TpidError) -> None:
        code = error.reason_code if isinstance(error, RefusedError) else error.code
        failed = FailedDial(str(address), name, code, str(error))
        if self._failed.get(address) != failed:  # once a change, however often it is tried
            self._failed[address] = failed
            _logger.warning("dial_failed device=%s address=%s code=%s reason=%s", self._me, address, code, error)
            self._changed.notify()

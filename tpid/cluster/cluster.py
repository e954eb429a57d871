"""The cluster as the engine sees it: who is connected, who coordinates, and the lease of this device.

    the engine calls        when
    ----------------------  --------------------------------------------------------------------------
    `acquire()`             before a request: returns with the lease, and busy
    `bump_term()`           before a new plan
    `set_busy(False)`       after the last request: from now on the lease may go to another device

    the cluster calls       when
    ----------------------  --------------------------------------------------------------------------
    `peer_joined/lost`      a connection is up, or has ended
    `received`              any frame but those of leases and heartbeats
    `lease_lost`            this device was the coordinator and is no longer (never while it is busy)
    `lease_changed`         anything in `coordinator`, `lease` or `term` is new, or a device sits out; an idle
                            coordinator's term may grow by itself, so a plan is good only for its own term

Order of the end: leases back, no more dialling, goodbye to all, mDNS off, listener closed.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Literal, Self

from tpid.cluster.address import Address, parse_address
from tpid.cluster.advert import is_cluster_name
from tpid.cluster.changed import Changed
from tpid.cluster.discovery import LOOPBACK, Discovery, Sighting
from tpid.cluster.doctor import Facts, LinkFacts
from tpid.cluster.election import Election
from tpid.cluster.handler import Handler
from tpid.cluster.home import Home
from tpid.cluster.lease import (
    LEASE_MESSAGES,
    BumpTerm,
    Busy,
    Lease,
    Leave,
    PeerJoined,
    PeerLost,
    Received,
    Tick,
)
from tpid.cluster.lease_keeper import LeaseKeeper
from tpid.cluster.long_lived import lives
from tpid.cluster.membership import Membership
from tpid.cluster.network import Network
from tpid.cluster.news import NEWS_MESSAGES, News
from tpid.cluster.presence import Presence
from tpid.cluster.reach import REACH_MESSAGES, Reach, look
from tpid.cluster.report import Report
from tpid.cluster.roster.statement import Statement
from tpid.cluster.settings import ClusterSettings
from tpid.cluster.status import ClusterStatus
from tpid.cluster.whereabouts import Whereabouts
from tpid.comm.connection import Connection
from tpid.comm.listener import Listener
from tpid.comm.messages import Device, Hello, Kind, Message
from tpid.comm.tensors import StartHeader, TensorHeader
from tpid.comm.tls_channel import TlsChannel
from tpid.device import DeviceId, DeviceProfile
from tpid.errors import ConfigError, DeviceLostError, LocalProtocolError, TpidError

__all__ = ["Cluster", "ClusterSettings", "Handler"]

_logger = logging.getLogger(__name__)


class Cluster:
    """Use as `async with Cluster(settings, profile) as cluster`. One task may hold it; all calls are on its loop."""

    def __init__(
        self,
        settings: ClusterSettings,
        profile: DeviceProfile,
        home: Home | None = None,
        *,
        chance: random.Random | None = None,
    ) -> None:
        """Without a `home`, connections are plain and stay on loopback: for tests. `chance` is for the jitter of
        dialling. Raises ConfigError for a bad name or address."""
        if not is_cluster_name(settings.name):
            raise ConfigError(
                f"{settings.name!r} cannot be the name of a cluster.", hint="Use 1 to 63 printable characters."
            )
        self._settings = settings
        self._profile = profile
        self._static_peers: tuple[Address, ...] = tuple(parse_address(text) for text in settings.static_peers)
        self._changed = Changed()
        self._home = home
        self._whereabouts = home.whereabouts if home is not None else Whereabouts()
        self.on_left: Callable[[], None] = lambda: None  # called when this device belongs to its home no more
        self._election = Election(profile.id, profile.role, settings.election)
        self._membership = Membership(
            me=profile.id,
            home=home,
            group=settings.name,
            whereabouts=self._whereabouts,
            hello=self._hello,
            owner=self,
            changed=self._changed,
            settings=settings.comm,
            backoff=settings.backoff,
            chance=chance or random.Random(),
        )
        self._discovery = Discovery(
            self.name,
            profile,
            self._membership,
            self._changed.notify,
            minimal=settings.advertise_minimal,
        )
        self._network = Network(settings.network)
        self._presence: Presence | None = None
        self._lease = LeaseKeeper(profile, self._election, lambda: self.peers, self._changed, settings.quiet_s)
        self._report = Report(
            settings,
            home,
            self._membership,
            self._discovery,
            self._network,
            self._election,
            self._lease,
        )
        self._news = News(home, self._whereabouts, lambda: self.peers) if home is not None else None
        self._reach = Reach(self._membership.addresses_of, self._report.announces)
        self._handler: Handler | None = None
        self._listener: Listener | None = None
        self._tasks = asyncio.TaskGroup()
        self._own_tasks: list[asyncio.Task[None]] = []
        self.on_pairing: Callable[[TlsChannel, str], None] = _nobody_invites
        # Set before the cluster is entered: gets each channel on which a member wants units of packs.
        self.on_units: Callable[[TlsChannel, DeviceId], None] = lambda channel, member: channel.sock.close()

    # --- life

    async def __aenter__(self) -> Self:
        """Raises ListenError."""
        self._listener = await Listener.listen(
            self._settings.host,
            self._settings.port,
            hello=self._hello,
            accept=self._membership.accept,
            on_connection=self._membership.adopt,
            on_refused=self._membership.refused,
            settings=self._settings.comm,
            trust=self._home,
            on_pairing=self._pairing_asked,
            on_units=self.on_units,
        )
        await self._tasks.__aenter__()
        if self._home is not None:
            self._home.on_change = self._roster_changed
            self._whereabouts.on_change = self._addresses_changed
            keeping = lives("home", self._home.keep_saved)
            self._own_tasks.append(self._tasks.create_task(keeping, name="home"))
        self._presence = Presence(
            self._listener, self._discovery, self._network, has_reason=self._has_others, on_moved=self._moved
        )
        presence = lives("presence", self._presence.run)
        self._own_tasks.append(self._tasks.create_task(presence, name="presence"))
        self._own_tasks.append(self._tasks.create_task(lives("reach", self._reach.run), name="reach"))
        timer = lives("election-timer", self._lease.keep_time)
        self._own_tasks.append(self._tasks.create_task(timer, name="election-timer"))
        if self._settings.mdns:
            discovery = lives("discovery", self._discovery.run)
            self._own_tasks.append(self._tasks.create_task(discovery, name="discovery"))
        self._membership.start(self._tasks, self._static_peers)
        self._lease.feed(Tick())
        _logger.info("cluster_up device=%s home=%s port=%d", self.me.id, self.name, self.port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._lease.feed(Leave())
            await self._membership.stop("it shuts down")
        finally:
            for task in reversed(self._own_tasks):  # discovery takes its announcement back
                task.cancel()
            try:
                if kind is not asyncio.CancelledError:  # the group would wrap what is not about its tasks
                    kind = error = trace = None
                await self._tasks.__aexit__(kind, error, trace)
            finally:
                if self._listener is not None:
                    await self._listener.close()
                if self._home is not None:
                    await self._home.save()
                _logger.info("cluster_down device=%s home=%s", self.me.id, self.name)

    # --- the home, and the network that it is in

    @property
    def name(self) -> str:
        """Of the cluster: the fingerprint of its home."""
        return self._home.fingerprint if self._home is not None else self._settings.name

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Meanwhile this device is open to its network, though it may have nobody there yet."""
        if self._presence is None:
            raise LocalProtocolError("The cluster is not up.")
        async with self._presence.opened():
            yield

    def strangers(self) -> list[Sighting]:
        """The devices in this network that are announced and do not belong to this home."""
        return self._report.strangers()

    def counts(self, device: DeviceId) -> bool:
        """Whether the device belongs to this home."""
        return self._membership.counts(device)

    def tell(self, statements: Sequence[Statement]) -> None:
        """This device has said something about its home: the others hear of it at once."""
        if self._news is not None:
            self._news.roster_changed(statements)

    def addresses(self) -> list[str]:
        """Where this device listens for others; loopback only where there is nothing else."""
        hosts = sorted(self._listener.hosts) if self._listener is not None else []
        outside = [host for host in hosts if host not in LOOPBACK]
        return [str(Address(host, self.port)) for host in outside or hosts]

    def _pairing_asked(self, channel: TlsChannel, address: str) -> None:
        self.on_pairing(channel, address)

    def _has_others(self) -> bool:
        """Whether there is reason to listen beyond this machine."""
        return bool(self._static_peers) or (self._home is not None and len(self._home.members) > 1)

    def _moved(self) -> None:
        self._membership.network_changed()
        self._changed.notify()

    def _roster_changed(self) -> None:
        """Deferred by a turn: the news is passed on first, to who is put out by it as well."""
        asyncio.get_running_loop().call_soon(self._follow_roster)

    def _follow_roster(self) -> None:
        if self._home is not None and self._home.me is None:
            self.on_left()
        self._membership.roster_changed()
        if self._presence is not None:
            self._presence.look()
        self._changed.notify()

    def _addresses_changed(self) -> None:
        self._membership.network_changed()
        self._changed.notify()
        if self._news is not None:
            self._news.addresses_changed()

    def set_handler(self, handler: Handler) -> None:
        """Frames that come before are refused, so call it before the cluster is entered."""
        self._handler = self._lease.handler = handler

    # --- what is

    @property
    def me(self) -> DeviceProfile:
        return self._profile

    @property
    def port(self) -> int:
        """Where this device listens."""
        return self._listener.port if self._listener else 0

    @property
    def peers(self) -> Mapping[DeviceId, Connection]:
        return self._membership.peers

    @property
    def coordinator(self) -> DeviceId | None:
        """Whose lease this device has given: only its frames count."""
        return self._election.coordinator

    @property
    def term(self) -> int:
        """Of the lease that this device has given; 0 without one."""
        return self._election.term

    @property
    def lease(self) -> Lease | None:
        """What this device may plan with now, without those that sit out; None unless it coordinates."""
        return self._lease.held

    async def wait_for(self, predicate: Callable[[], bool]) -> None:
        """Wait until `predicate`, about this cluster, is true."""
        await self._changed.wait_for(predicate)

    async def settled(self) -> None:
        """Wait until this device coordinates and every connected device has answered its campaign."""
        await self._changed.wait_for(lambda: self._election.holding and not self._election.unanswered)

    def status(self) -> ClusterStatus:
        return self._report.status(self.name, self.me, self.port)

    async def facts(self, links: Mapping[DeviceId, LinkFacts]) -> Facts:
        """For the doctor, within some seconds; `links` are those of this device that were measured."""
        others = [device for device in (self._home.members if self._home is not None else ()) if device != self.me.id]
        looks = asyncio.gather(*(look(self._membership.addresses_of(device)) for device in others))
        seen, found = await asyncio.gather(self._reach.ask(list(self.peers.values())), looks)
        looked = dict(zip(others, found, strict=True))
        return self._report.facts(self.status(), self.me, self._listener, links, seen=seen, looked=looked)

    # --- what the engine does

    async def acquire(self, reason: Literal["prompt", "idle"] = "prompt", wait_s: float = 10.0) -> Lease:
        """Become the coordinator over all connected devices.

        For a prompt, this device is busy when the call returns, until `set_busy(False)`. Raises
        NotCoordinatorError: this is a helper; another device is busy; a device does not answer. May be cancelled.
        """
        return await self._lease.acquire(reason, wait_s)

    def blame(self, device_id: DeviceId, reason: str) -> None:
        """The device did not do its part of a plan: it is no part of the lease for a while."""
        self._lease.blame(device_id, reason)

    def bump_term(self) -> int:
        """A new term, for a new plan. Raises LocalProtocolError unless this device coordinates."""
        self._lease.feed(BumpTerm())
        return self._lease.held_lease().term

    def set_busy(self, busy: bool) -> None:
        """Raises LocalProtocolError for busy without the lease."""
        self._lease.feed(Busy(busy))

    def update_profile(self, profile: DeviceProfile) -> None:
        """Tell the others what is new. Raises LocalProtocolError where id or role differ: these never change."""
        if (profile.id, profile.role) != (self.me.id, self.me.role):
            raise LocalProtocolError("The id and role of a device do not change while it runs.")
        if profile == self._profile:
            return
        self._profile = profile
        self._discovery.update(profile)
        for connection in list(self.peers.values()):
            with contextlib.suppress(DeviceLostError):  # `lost` tells
                connection.send(Device(profile=profile))
        self._changed.notify()

    def _hello(self) -> Hello:
        return Hello(cluster=self.name, profile=self._profile, port=self.port, clock_s=time.time())

    # --- the owner of connections

    def joined(self, connection: Connection) -> None:
        if self._news is not None:
            self._news.joined(connection)
        self._whereabouts.saw(connection.peer.id)
        self._lease.feed(PeerJoined(connection.peer.id, connection.peer.role))
        if self._handler is not None:
            self._handler.peer_joined(connection)

    def payload_buffer(
        self, connection: Connection, kind: Kind, header: StartHeader | TensorHeader, size_bytes: int
    ) -> memoryview | None:
        if self._handler is None:
            return None
        return self._handler.payload_buffer(connection, kind, header, size_bytes)

    def received(
        self,
        connection: Connection,
        kind: Kind,
        message: Message | StartHeader | TensorHeader,
        payload: memoryview | None,
    ) -> None:
        if self.peers.get(connection.peer.id) is not connection:
            return  # another connection took its place
        if isinstance(message, LEASE_MESSAGES):
            self._lease.feed(Received(connection.peer.id, message))
            return
        if isinstance(message, NEWS_MESSAGES):
            if self._news is not None:
                self._news.received(connection, message)
            return
        if isinstance(message, REACH_MESSAGES):
            self._reach.received(connection, message)
            return
        if kind is Kind.DEVICE:
            self._changed.notify()
        if self._handler is not None:
            self._handler.received(connection, kind, message, payload)

    def lost(self, connection: Connection, error: TpidError) -> None:
        if self._membership.forget(connection, error):
            self._whereabouts.saw(connection.peer.id)
            self._lease.feed(PeerLost(connection.peer.id))
            if self._handler is not None:
                self._handler.peer_lost(connection, error)


def _nobody_invites(channel: TlsChannel, address: str) -> None:
    channel.sock.close()

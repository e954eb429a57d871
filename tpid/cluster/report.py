"""What the cluster tells of itself: to `tpictl status`, and to the doctor."""

from collections.abc import Mapping
from dataclasses import dataclass

from tpid.cluster.address import Address
from tpid.cluster.discovery import Discovery, Sighting
from tpid.cluster.doctor import Facts, LinkFacts, MemberFacts, StrangerFacts
from tpid.cluster.election import Election
from tpid.cluster.home import Home
from tpid.cluster.lease_keeper import LeaseKeeper
from tpid.cluster.membership import Membership
from tpid.cluster.network import Network
from tpid.cluster.settings import ClusterSettings
from tpid.cluster.status import ClusterStatus, DeviceStatus, SightedDevice
from tpid.comm.listener import Listener
from tpid.comm.messages import Seen
from tpid.device import DeviceId, DeviceProfile


@dataclass(frozen=True, slots=True)
class Report:
    """The parts of a cluster that know something."""

    settings: ClusterSettings
    home: Home | None
    membership: Membership
    discovery: Discovery
    network: Network
    election: Election
    lease: LeaseKeeper

    def strangers(self) -> list[Sighting]:
        """The devices in this network that are announced and do not belong to this home."""
        return [s for s in self.discovery.sightings.values() if not self.membership.counts(s.device_id)]

    def status(self, name: str, me: DeviceProfile, port: int) -> ClusterStatus:
        sighted = (s for s in self.membership.sightings if s.device_id not in self.membership.peers)
        return ClusterStatus(
            cluster=name,
            devices=self._devices(me, port),
            coordinator=self.election.coordinator,
            term=self.election.term,
            busy=self.election.busy,
            discovery=self.discovery.state if self.settings.mdns else "disabled",
            sighted=tuple(
                SightedDevice(s.device_id, s.advert.name, str(s.addresses[0]), s.advert.protocol_version)
                for s in sighted
            ),
            failed=tuple(self.membership.failed),
            n_other_clusters=self.membership.n_strangers,
            n_unreadable=self.discovery.n_unreadable,
        )

    def facts(
        self,
        status: ClusterStatus,
        me: DeviceProfile,
        listener: Listener | None,
        links: Mapping[DeviceId, LinkFacts],
        *,
        seen: Mapping[DeviceId, Seen],
        looked: Mapping[DeviceId, Mapping[Address, str]],
    ) -> Facts:
        """For the doctor; `links` are those of this device that were measured, `seen` is what others see of it, and
        `looked` why their addresses do not answer it."""
        members = self.home.members.values() if self.home is not None else ()
        return Facts(
            name=me.name,
            version=me.version,
            port=listener.port if listener is not None else 0,
            stays_on_loopback=self.settings.network.stays_on_loopback,
            listens_on=tuple(sorted(listener.hosts)) if listener is not None else (),
            choices=self.network.choices(),
            status=status,
            members=tuple(
                self._member(member.id, member.name, seen.get(member.id), looked.get(member.id, {}))
                for member in members
                if member.id != me.id
            ),
            strangers=tuple(
                StrangerFacts(sighting.advert.name, str(sighting.addresses[0]), sighting.advert.protocol_version)
                for sighting in self.strangers()
            ),
            links=links,
        )

    def announces(self, device_id: DeviceId) -> bool:
        """Whether mDNS shows the device now."""
        return any(sighting.device_id == device_id for sighting in self.discovery.sightings.values())

    def _member(self, device_id: DeviceId, name: str, seen: Seen | None, looked: Mapping[Address, str]) -> MemberFacts:
        connection = self.membership.peers.get(device_id)
        return MemberFacts(
            id=device_id,
            name=name,
            announced=self.announces(device_id),
            known_addresses=tuple(map(str, looked)),
            seen=seen,
            not_reached={str(address): why for address, why in looked.items() if why},
            clock_skew_s=connection.peer_skew_s if connection is not None else None,
        )

    def _devices(self, mine: DeviceProfile, port: int) -> tuple[DeviceStatus, ...]:
        coordinator = self.election.coordinator
        lease = self.lease.held
        granted = lease.devices if lease else frozenset[DeviceId]()
        out = self.lease.sitting_out()
        me = DeviceStatus(
            profile=mine,
            address=str(Address(self.settings.host, port)),
            rtt_s=None,
            is_me=True,
            coordinates=coordinator == mine.id,
            granted=mine.id in granted,
        )
        others = (
            DeviceStatus(
                profile=connection.peer,
                address=connection.peer_address,
                rtt_s=connection.rtt_s,
                is_me=False,
                coordinates=coordinator == peer_id,
                granted=peer_id in granted,
                sits_out=out.get(peer_id),
            )
            for peer_id, connection in self.membership.peers.items()
        )
        return (me, *sorted(others, key=lambda device: (device.profile.name, device.profile.id)))

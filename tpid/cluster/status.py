"""What a device tells its user about the cluster."""

from dataclasses import dataclass

from tpid.device import DeviceId, DeviceProfile


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """This device, or one that is connected."""

    profile: DeviceProfile
    address: str  # host:port; where it listens for this device itself
    rtt_s: float | None  # of the heartbeats, smoothed; None for this device and before the first
    is_me: bool
    coordinates: bool
    granted: bool  # its lease to this device; True only at the coordinator
    sits_out: str | None = None  # why it is in no plan of this device for a while


@dataclass(frozen=True, slots=True)
class FailedDial:
    """Why a device is not connected."""

    address: str
    name: str | None  # if mDNS or an earlier connection told it
    code: str  # of the error or of the refusal, stable
    reason: str  # one sentence for people, and what to do


@dataclass(frozen=True, slots=True)
class SightedDevice:
    """Announced by mDNS, not connected."""

    id: DeviceId
    name: str
    address: str
    protocol_version: int


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    cluster: str  # short fingerprint of the home
    devices: tuple[DeviceStatus, ...]  # this one first, then by name
    coordinator: DeviceId | None  # whose lease this device has given
    term: int  # of that lease; 0 without one
    busy: bool  # this device coordinates a request
    discovery: str  # "on: …", "not announced, …", "off: why", "disabled"
    sighted: tuple[SightedDevice, ...]
    failed: tuple[FailedDial, ...]
    n_other_clusters: int  # devices of other homes in this network
    n_unreadable: int  # announcements that no tpid can have made

    @property
    def budget_bytes(self) -> int:
        """What tpid may take of all connected devices together."""
        return sum(device.profile.budget_bytes for device in self.devices)

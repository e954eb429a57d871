"""What the daemon answers about the home: who belongs to it, who comes in, what stands in the way."""

from dataclasses import dataclass

from tpictl.client.answers import Line


@dataclass(frozen=True, slots=True)
class HomeDevice:
    """A member of the home."""

    name: Line
    short_fingerprint: Line
    role: Line
    is_me: bool
    connected: bool
    addresses: tuple[Line, ...]
    rtt_s: float | None
    last_seen: float | None  # seconds of the daemon's clock


@dataclass(frozen=True, slots=True)
class Stranger:
    """A device in this network that is not of the home."""

    name: Line
    address: Line
    home: Line


@dataclass(frozen=True, slots=True)
class Devices:
    """GET /tpid/devices"""

    home: Line
    devices: tuple[HomeDevice, ...]
    strangers: tuple[Stranger, ...]


@dataclass(frozen=True, slots=True)
class Named:
    name: Line
    fingerprint: Line


@dataclass(frozen=True, slots=True)
class Opened:
    """POST /tpid/invite, the first line"""

    code: Line
    valid_s: float
    role: Line
    device: Named
    addresses: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Tried:
    address: Line
    tries_left: int


@dataclass(frozen=True, slots=True)
class Invited:
    name: Line
    fingerprint: Line
    role: Line
    acknowledged: bool


@dataclass(frozen=True, slots=True)
class Looking:
    """POST /tpid/join: while it looks for the device that invites"""

    seen: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Found:
    name: Line
    address: Line


@dataclass(frozen=True, slots=True)
class Waiting:
    name: Line


@dataclass(frozen=True, slots=True)
class Joined:
    name: Line
    fingerprint: Line
    role: Line
    inviter: Line
    inviter_fingerprint: Line


@dataclass(frozen=True, slots=True)
class Finding:
    level: Line
    what: Line
    why: Line
    do: Line


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """GET /tpid/doctor"""

    device: Line
    worst: Line
    findings: tuple[Finding, ...]

"""The values of the election: settings, events that go in, actions that come out. See `tpid.cluster.election`."""

import zlib
from dataclasses import dataclass

from tpid.comm.messages import Campaign, Deny, Grant, Release, Renew
from tpid.device import DeviceId, Role
from tpid.errors import RemoteProtocolError

LeaseMessage = Campaign | Grant | Deny | Renew | Release
LEASE_MESSAGES = (Campaign, Grant, Deny, Renew, Release)

# A device follows a higher term at once where it is near, towards one that is far above in steps, once a second, and
# denies it until then. So frames, however many, do not use up the 63 bits within a life, and a device that has started
# anew catches up with a home whose terms are far ahead.
NEAR_TERMS = 2**20
TERM_STEP = 2**32
TERM_STEP_S = 1.0


@dataclass(frozen=True, slots=True)
class ElectionSettings:
    """How long a lease lives and how long an idle device hesitates."""

    ttl_s: float = (
        4.5  # up to 600; longer than a connection may be silent and one renewal, so that a stall costs no lease
    )
    answer_s: float = 3.0  # that a peer may leave a request unanswered; then the connection is made anew
    renewals_per_ttl: int = 3  # one may be late by a third of the time to live without harm
    idle_delay_s: float = 0.3  # before an idle campaign: discovery may find the coordinator first
    idle_jitter_s: float = 0.5  # at most, on top; told apart by device and term, so that two rarely collide

    @property
    def renew_s(self) -> float:
        return self.ttl_s / self.renewals_per_ttl

    def idle_wait_s(self, device: DeviceId, term: int) -> float:
        """Delay of an idle campaign: the same for the same device and term, spread over devices."""
        fraction = zlib.crc32(f"{device}:{term}".encode()) / 2**32
        return self.idle_delay_s + self.idle_jitter_s * fraction


@dataclass(frozen=True, slots=True)
class Lease:
    """What the holder holds: it may plan over `devices` (itself included) with frames of `term`."""

    term: int
    devices: frozenset[DeviceId]


def check_message(peer: DeviceId, role: Role, message: LeaseMessage) -> None:
    """Raises RemoteProtocolError for what no helper may send."""
    if role is not Role.USER and isinstance(message, Campaign | Renew):
        raise RemoteProtocolError(f"Helper {peer} asks for the lease, which helpers never may.")


# --- events


@dataclass(frozen=True, slots=True)
class PeerJoined:
    """A connection to `peer` is up; an earlier one, if any, is gone with all that was in flight."""

    peer: DeviceId
    role: Role


@dataclass(frozen=True, slots=True)
class PeerLost:
    peer: DeviceId


@dataclass(frozen=True, slots=True)
class Received:
    peer: DeviceId
    message: LeaseMessage


@dataclass(frozen=True, slots=True)
class Want:
    """A prompt waits here for the lease, or no longer does."""

    wanted: bool


@dataclass(frozen=True, slots=True)
class Busy:
    """The holder works on a request, or no longer does."""

    busy: bool


@dataclass(frozen=True, slots=True)
class BumpTerm:
    """The holder makes a new plan."""


@dataclass(frozen=True, slots=True)
class Leave:
    """This device shuts down: everything is given back, nothing is asked for any more."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A deadline may have passed."""


Event = PeerJoined | PeerLost | Received | Want | Busy | BumpTerm | Leave | Tick


# --- actions


@dataclass(frozen=True, slots=True)
class Send:
    peer: DeviceId
    message: LeaseMessage


@dataclass(frozen=True, slots=True)
class Disconnect:
    """`peer` does not answer: cut the connection; the next one puts both ends in step again."""

    peer: DeviceId
    reason: str


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """This device was the holder and is no longer."""

    reason: str


@dataclass(frozen=True, slots=True)
class Changed:
    """Who coordinates, the term, the grants or the answers have changed."""


Action = Send | Disconnect | LeaseLost | Changed


# --- state


@dataclass(frozen=True, slots=True)
class Slot:
    """The one lease that a device can give. `granted` is False while it only reserves the device for `holder`."""

    holder: DeviceId
    term: int
    expires_at: float  # infinite for the device's own
    granted: bool

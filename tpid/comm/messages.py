"""Every message of the protocol: its number, its header, and what it is for.

Control messages are validated by pydantic. START, PARTIAL, SUM and PEER_PARTIAL carry tensors and are
checked by hand, because they pass twice a layer: see `tpid.comm.tensors`.
"""

import re
from dataclasses import replace
from enum import IntEnum
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tpid.device import DeviceProfile, HeldUnits, is_device_name

PROTOCOL_VERSION: Final = 2

MAX_TEXT_CHARS: Final = 2000
MAX_WORD_CHARS: Final = 255  # of a version, a backend, the id of a pack
MAX_RATE: Final = 1e18  # bytes or operations a second: above any device
MAX_PACKS: Final = 1000
MAX_HELD_UNITS: Final = 200  # packs with holes that a device tells of
_DEVICE_ID: Final = re.compile(r"[0-9a-f]{64}")
MAX_PAD_BYTES: Final = 16 * 1024
MAX_LINKS: Final = 256
MAX_LINK_S: Final = 10.0  # of a round trip: longer than a connection may be silent


def _one_line(text: str) -> str:
    """Texts end up in logs and terminals: no control characters, and never longer than anyone reads."""
    return "".join(char if char.isprintable() else " " for char in text[:MAX_TEXT_CHARS])


def _plausible(profile: DeviceProfile) -> DeviceProfile:
    """What the planner divides by, and what people are shown, must be what it says."""
    if not _DEVICE_ID.fullmatch(profile.id):
        raise ValueError("the device id is not 64 hex digits")
    if not is_device_name(profile.name):
        raise ValueError("the name of the device is empty, too long or not printable")
    texts = (profile.version, profile.backend, *profile.packs)
    if not all(0 < len(text) <= MAX_WORD_CHARS and text.isprintable() for text in texts):
        raise ValueError(f"a text of the profile is empty, not printable or longer than {MAX_WORD_CHARS}")
    if len(profile.packs) > MAX_PACKS:
        raise ValueError(f"the profile names {len(profile.packs)} packs, more than {MAX_PACKS}")
    if len(profile.units) > MAX_HELD_UNITS or not all(map(_is_sound, profile.units)):
        raise ValueError(f"the profile tells units that no pack has, or of more than {MAX_HELD_UNITS} packs")
    sizes = (profile.ram_bytes, profile.budget_bytes, profile.disk_free_bytes, profile.threads)
    rates = (profile.read_bytes_s, profile.disk_bytes_s, profile.matmul_flops_s)
    if not all(0 <= number < 2**63 for number in (*sizes, *rates)):
        raise ValueError("a number of the profile is negative or too large")
    return replace(
        profile,
        read_bytes_s=_rate(profile.read_bytes_s),
        disk_bytes_s=_rate(profile.disk_bytes_s),
        matmul_flops_s=_rate(profile.matmul_flops_s),
    )


def _is_sound(held: HeldUnits) -> bool:
    ranges = all(0 <= start <= stop < 2**31 for start, stop in (held.attn, held.ffn))
    return ranges and 0 <= held.size_bytes < 2**63 and _DEVICE_ID.fullmatch(held.pack) is not None


def _rate(number: float) -> float:
    """Of a second. Less than one is as good as none: the planner divides by it."""
    return min(number, MAX_RATE) if number >= 1.0 else 0.0


def _plausible_link(link: tuple[str, float, float, float]) -> tuple[str, float, float, float]:
    device, rtt_s, bytes_s, message_s = link
    if not _DEVICE_ID.fullmatch(device):
        raise ValueError("the device id is not 64 hex digits")
    return device, min(rtt_s, MAX_LINK_S), _rate(bytes_s), min(message_s, MAX_LINK_S)


_NotNegative = Annotated[float, Field(ge=0)]
ToldLink = Annotated[tuple[str, _NotNegative, _NotNegative, _NotNegative], AfterValidator(_plausible_link)]
Term = Annotated[int, Field(ge=0, lt=2**63, strict=True)]
PassId = Annotated[int, Field(ge=0, lt=2**63, strict=True)]
Size = Annotated[int, Field(ge=0, lt=2**63, strict=True)]
Measured = Annotated[float, Field(ge=0, lt=2**63)]
Text = Annotated[str, AfterValidator(_one_line)]
AddressText = Annotated[str, Field(min_length=3, max_length=300), AfterValidator(_one_line)]
Profile = Annotated[DeviceProfile, AfterValidator(_plausible)]


class Kind(IntEnum):
    HELLO = 1
    REFUSE = 2
    BYE = 3
    PING = 4
    PONG = 5
    DEVICE = 6
    ROSTER_KEYS = 7
    ROSTER = 8
    ADDRESSES = 9
    PROBE = 10
    LINKS = 11
    LOOK = 12
    SEEN = 13

    CAMPAIGN = 16
    GRANT = 17
    DENY = 18
    RENEW = 19
    RELEASE = 20

    LOAD = 32
    LOADED = 33
    UNLOAD = 34
    FAILED = 35
    DISK_USE = 36
    PROGRESS = 37
    FETCH = 38

    START = 48
    PARTIAL = 49
    SUM = 50
    ABORT = 51
    PEER_PARTIAL = 52


class Message(BaseModel):
    """A control message; unknown fields are refused, so that a change of meaning needs a new version."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Hello(Message):
    """First frame of both sides."""

    cluster: Annotated[str, Field(min_length=1, max_length=63), AfterValidator(_one_line)]
    profile: Profile
    port: Annotated[int, Field(ge=0, le=65535, strict=True)] = 0  # where the sender listens; 0: nowhere
    clock_s: Annotated[float, Field(ge=0, lt=2**63)] = 0.0  # its wall clock, since 1970; 0: not told


class Refuse(Message):
    """Instead of going on after a hello; the connection closes behind it."""

    code: Text
    reason: Text


class Bye(Message):
    """An orderly end of the connection."""

    reason: Text


class Ping(Message):
    """Heartbeat; `sent_s` is the sender's monotonic clock and comes back in the pong."""

    sent_s: float


class Pong(Message):
    sent_s: float


class Probe(Message):
    """Answered by a pong as a ping is; measures the link, by its size and by how many follow each other."""

    sent_s: float
    pad: Annotated[bytes, Field(max_length=MAX_PAD_BYTES)]


class Links(Message):
    """What the sender has measured of its links: device, round trip, bytes a second, seconds of a message more."""

    links: Annotated[list[ToldLink], Field(max_length=MAX_LINKS)]


class Look(Message):
    """Asks the receiver whether it gets through to the sender, where it would dial it."""


class Seen(Message):
    """The answer to Look: whether mDNS brings the receiver there, and at which of its addresses it answers."""

    announced: bool
    reached: Annotated[list[AddressText], Field(max_length=8)]
    not_reached: Annotated[dict[AddressText, Text], Field(max_length=8)]  # with what was seen there instead


class Device(Message):
    """The sender's profile has changed."""

    profile: Profile


class RosterKeys(Message):
    """Which statements of the home's roster the sender has: see `tpid.cluster.roster.gossip`."""

    keys: Annotated[bytes, Field(max_length=64 * 1024, strict=True)]


class RosterNews(Message):
    """Statements of the roster that the receiver may lack: see `tpid.cluster.roster.gossip`."""

    statements: Annotated[bytes, Field(max_length=64 * 1024, strict=True)]


class Addresses(Message):
    """Where the sender has reached members of the home, as host:port; to be tried, not believed."""

    addresses: Annotated[
        dict[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], Annotated[list[AddressText], Field(max_length=8)]],
        Field(max_length=64),
    ]


class Campaign(Message):
    """Asks the receiver for its lease."""

    term: Term
    reason: Literal["idle", "prompt"]


class Grant(Message):
    """The receiver holds the sender's lease for `ttl_s` from now, unless it is renewed."""

    term: Term
    ttl_s: Annotated[float, Field(gt=0, le=600)]


class Deny(Message):
    """The lease is another's; `highest_term` is the highest that the sender has seen."""

    term: Term
    holder: Text | None
    highest_term: Term


class Renew(Message):
    """The holder of the lease is alive; answered by Grant or Deny."""

    term: Term


class Release(Message):
    """The holder gives the lease back; to a waiting candidate, with its own term: ask again, or you are next."""

    term: Term


class Load(Message):
    """Coordinator to worker: hold your share of this plan."""

    term: Term
    plan: dict[str, Any]  # a tpid.plan.Plan


class Fetch(Message):
    """Coordinator to a device: get the units of your share of this plan from others; it may be loaded later."""

    term: Term
    plan: dict[str, Any]  # a tpid.plan.Plan


class Loaded(Message):
    """Worker to coordinator: the share is in memory, or streams; passes of this term may start."""

    term: Term
    held_bytes: Size
    window_bytes: Size = 0
    streamed_bytes: Size = 0


class Unload(Message):
    """Coordinator to worker: let the share go."""

    term: Term


class Failed(Message):
    """Worker to coordinator: the load or the pass of this term has failed here."""

    term: Term
    code: Text
    reason: Text


class DiskUse(Message):
    """Worker to coordinator, for people: how fast streamed weights came so far, and what a decode step waited for."""

    term: Term
    disk_bytes_s: Measured
    stall_s: Measured


class Progress(Message):
    """Worker to coordinator, twice a second while it loads or computes: it is at work.

    `done` of `total` are bytes of a load, or steps of the pass that is named. With `from_devices` the bytes of the load
    come from other devices: the share is not yet on the disk.
    """

    term: Term
    pass_id: PassId | None = None  # None: a load
    done: Size
    total: Size
    from_devices: bool = False


class Abort(Message):
    """Coordinator to worker: drop this pass; its tokens are not part of any sequence."""

    term: Term
    pass_id: PassId


CONTROL_MESSAGES: Final[dict[Kind, type[Message]]] = {
    Kind.HELLO: Hello,
    Kind.REFUSE: Refuse,
    Kind.BYE: Bye,
    Kind.PING: Ping,
    Kind.PONG: Pong,
    Kind.DEVICE: Device,
    Kind.ROSTER_KEYS: RosterKeys,
    Kind.ROSTER: RosterNews,
    Kind.ADDRESSES: Addresses,
    Kind.PROBE: Probe,
    Kind.LINKS: Links,
    Kind.LOOK: Look,
    Kind.SEEN: Seen,
    Kind.CAMPAIGN: Campaign,
    Kind.GRANT: Grant,
    Kind.DENY: Deny,
    Kind.RENEW: Renew,
    Kind.RELEASE: Release,
    Kind.LOAD: Load,
    Kind.LOADED: Loaded,
    Kind.UNLOAD: Unload,
    Kind.FAILED: Failed,
    Kind.DISK_USE: DiskUse,
    Kind.PROGRESS: Progress,
    Kind.FETCH: Fetch,
    Kind.ABORT: Abort,
}

KIND_OF: Final[dict[type[Message], Kind]] = {message: kind for kind, message in CONTROL_MESSAGES.items()}
TENSOR_KINDS: Final = frozenset({Kind.START, Kind.PARTIAL, Kind.SUM, Kind.PEER_PARTIAL})

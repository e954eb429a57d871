"""What the daemon answers, as far as tpictl reads it. Units are in the names; times in seconds."""

from dataclasses import dataclass, field
from typing import Annotated

from tpictl.printable import printable_line

Line = Annotated[str, printable_line]  # names and reasons come from other devices too


# --- the plan


@dataclass(frozen=True, slots=True)
class UnitRange:
    start: int
    stop: int

    @property
    def n_units(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Share:
    attn: UnitRange  # KV groups
    ffn: UnitRange


@dataclass(frozen=True, slots=True)
class Rank:
    device: str
    name: Line
    share: Share
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class LeftOut:
    device: str
    name: Line
    reason: Line


@dataclass(frozen=True, slots=True)
class Plan:
    term: int
    model: Line
    ranks: tuple[Rank, ...]
    left_out: tuple[LeftOut, ...]
    context_tokens: int
    wire_dtype: Line
    max_pass_tokens: int = 0

    @property
    def n_attn_units(self) -> int:
        return sum(rank.share.attn.n_units for rank in self.ranks)

    @property
    def n_ffn_units(self) -> int:
        return sum(rank.share.ffn.n_units for rank in self.ranks)


# --- what a plan promises


@dataclass(frozen=True, slots=True)
class Bottleneck:
    limit: Line  # disk, memory bandwidth, compute, link
    device: Line | None


@dataclass(frozen=True, slots=True)
class RankForecast:
    name: Line
    budget_bytes: int
    memory_bytes: int
    base_bytes: int
    kv_bytes: int
    activation_bytes: int
    resident_bytes: int
    window_bytes: int
    streamed_bytes: int  # in each pass
    disk_bytes_s: float


@dataclass(frozen=True, slots=True)
class Forecast:
    tpot_s: float
    tpot_limit: Bottleneck
    ttft_s: float
    ttft_limit: Bottleneck
    prompt_tokens: int
    walks: int
    ranks: tuple[RankForecast, ...]


@dataclass(frozen=True, slots=True)
class Preview:
    """POST /tpid/plan"""

    plan: Plan
    forecast: Forecast


# --- status


@dataclass(frozen=True, slots=True)
class Profile:
    id: str
    name: Line
    role: Line
    version: Line
    ram_bytes: int
    budget_bytes: int
    threads: int


@dataclass(frozen=True, slots=True)
class Device:
    profile: Profile
    address: Line
    rtt_s: float | None
    is_me: bool
    coordinates: bool
    granted: bool
    since_s: float | None = None  # Unix time of the daemon, as all times here
    sits_out: Line | None = None  # why


@dataclass(frozen=True, slots=True)
class Sighted:
    name: Line
    address: Line


@dataclass(frozen=True, slots=True)
class FailedDial:
    address: Line
    name: Line | None
    reason: Line


@dataclass(frozen=True, slots=True)
class Cluster:
    cluster: Line
    devices: tuple[Device, ...]
    coordinator: str | None
    term: int
    discovery: Line
    sighted: tuple[Sighted, ...]
    failed: tuple[FailedDial, ...]
    n_other_clusters: int = 0
    n_unreadable: int = 0


@dataclass(frozen=True, slots=True)
class WeightUse:
    """Where a rank's weights are, and what streaming costs."""

    resident_bytes: int
    window_bytes: int = 0
    streamed_bytes: int = 0  # in each pass
    disk_bytes_s: float | None = None
    stall_s: float | None = None  # a token


@dataclass(frozen=True, slots=True)
class Holding:
    """What this device computes for another one."""

    model: Line
    rank: int
    coordinator: Line  # its name
    weights: WeightUse


@dataclass(frozen=True, slots=True)
class LastAnswer:
    ttft_s: float
    tokens_s: float | None


@dataclass(frozen=True, slots=True)
class Amount:
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Fetching:
    """What this device gets from other devices."""

    done_bytes: int
    total_bytes: int
    sources: tuple[Line, ...] = ()  # names
    avoided: dict[str, Line] = field(default_factory=dict)  # by name, why nothing is asked of it


@dataclass(frozen=True, slots=True)
class Away:
    """A device that was connected once."""

    id: str
    name: Line
    since_s: float
    reason: Line


@dataclass(frozen=True, slots=True)
class Host:
    """This device, whatever runs on it."""

    load: float  # the part of its cores that is busy
    available_bytes: int


@dataclass(frozen=True, slots=True)
class Stage:
    """What is done of a request now."""

    stage: Line  # queue, load, prefill, decode
    ahead: int = 0  # requests that come first
    done_bytes: int = 0
    total_bytes: int = 0
    done_tokens: int = 0
    total_tokens: int = 0
    tokens: int = 0  # of the answer
    model: Line = ""
    came_s: float = 0.0


@dataclass(frozen=True, slots=True)
class DeviceEvent:
    number: int
    time_s: float
    kind: Line  # joined, lost, failed, recovered
    device: Line
    in_plan: bool
    reason: Line


@dataclass(frozen=True, slots=True)
class Status:
    """GET /tpid/status"""

    cluster: Cluster
    plan: Plan | None
    holding: Holding | None
    busy: bool
    waiting_requests: int
    last: LastAnswer | None
    memory_bytes: int
    weights: dict[str, WeightUse] = field(default_factory=dict)  # by device
    fetching: Fetching | None = None
    fetches: dict[str, Amount] = field(default_factory=dict)  # by name: devices that get units for the plan
    time_s: float = 0.0
    work: Stage | None = None  # of the request that runs
    written_tokens: int = 0
    events: tuple[DeviceEvent, ...] = ()
    away: tuple[Away, ...] = ()
    host: Host | None = None


# --- models


@dataclass(frozen=True, slots=True)
class Model:
    """A sound pack has all fields, a damaged one its name and why."""

    name: Line
    damaged: Line | None = None
    architecture: Line = ""
    layers: int = 0
    context_tokens: int = 0
    formats: tuple[Line, ...] = ()
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class CatalogueModel:
    """`size_bytes` to fetch, `memory_bytes` of all devices together: about so much."""

    about: Line
    size_bytes: int
    memory_bytes: int = 0
    licence: Line = ""
    quantization: Line = ""


@dataclass(frozen=True, slots=True)
class Models:
    """GET /tpid/models"""

    models: tuple[Model, ...]
    catalogue: dict[str, CatalogueModel]
    default: str = "smollm2-135m"  # of the catalogue: what to begin with in this home


@dataclass(frozen=True, slots=True)
class Progress:
    """A line of POST /tpid/load, /tpid/import and /tpid/pull."""

    stage: Line
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Note:
    """A line of POST /tpid/import and /tpid/pull: what had to be guessed, or is left out."""

    note: Line


@dataclass(frozen=True, slots=True)
class Imported:
    """The last line of an import."""

    name: Line
    size_bytes: int
    published_bytes: int = 0  # of the files that it was made of; an older daemon does not say it
    already: bool = False  # it was here, and nothing was done


@dataclass(frozen=True, slots=True)
class Shown:
    """POST /tpid/models/show"""

    name: Line
    id: Line
    architecture: Line
    parameters: int
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    vocabulary: int
    context_tokens: int
    formats: tuple[Line, ...]
    size_bytes: int
    source: Line | None
    sampling: dict[str, float]
    chat_template: str | None


@dataclass(frozen=True, slots=True)
class Removed:
    """POST /tpid/models/remove"""

    freed_bytes: int


@dataclass(frozen=True, slots=True)
class Unloaded:
    """POST /tpid/unload"""

    unloaded: Line | None


@dataclass(frozen=True, slots=True)
class Verified:
    """The last line of a verification."""

    name: Line
    checked_bytes: int
    n_faults: int


@dataclass(frozen=True, slots=True)
class Fault:
    message: Line
    hint: Line | None = None


# --- chat


@dataclass(frozen=True, slots=True)
class Key:
    name: str
    created_s: int  # Unix time


@dataclass(frozen=True, slots=True)
class Keys:
    """GET /tpid/keys"""

    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """POST /tpid/keys/create"""

    key: Line


@dataclass(frozen=True, slots=True)
class Delta:
    content: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    delta: Delta
    finish_reason: Line | None = None


@dataclass(frozen=True, slots=True)
class PromptDetails:
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: PromptDetails = PromptDetails()


@dataclass(frozen=True, slots=True)
class Timings:
    ttft_s: float
    tpot_s: float | None  # None for a single token
    tokens_s: float | None


@dataclass(frozen=True, slots=True)
class Chunk:
    """An event of POST /v1/chat/completions; the last one has usage and timings."""

    choices: tuple[Choice, ...]
    usage: Usage | None = None
    timings: Timings | None = None
    progress: Stage | None = None
    event: DeviceEvent | None = None

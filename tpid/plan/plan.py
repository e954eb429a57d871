"""A plan, and its form on the wire."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tpid.device import DeviceId
from tpid.errors import RemoteProtocolError
from tpid.pack.geometry import Half, Share, UnitRange
from tpid.pack.manifest import PackId


@dataclass(frozen=True, slots=True)
class Rank:
    """One device's part. Its number is its place in the plan; 0 is the coordinator, the hub of the star."""

    device: DeviceId
    name: str
    share: Share
    memory_bytes: int  # what it is expected to take


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A device of the cluster that has no rank, and why."""

    device: DeviceId
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Who is which rank, with which share of which pack."""

    term: int
    pack: PackId
    model: str  # the pack's name on the coordinator, for people
    ranks: tuple[Rank, ...]
    left_out: tuple[LeftOut, ...]
    context_tokens: int  # room in the KV cache of a sequence
    max_pass_tokens: int  # new tokens in one pass
    n_slots: int  # sequences
    wire_dtype: str
    direct_tokens: int  # passes of up to so many go by the direct exchange, longer ones by the star

    @property
    def world_size(self) -> int:
        return len(self.ranks)

    def rank_of(self, device: DeviceId) -> int | None:
        return next((rank for rank, part in enumerate(self.ranks) if part.device == device), None)


_PLAN = TypeAdapter(Plan)

MAX_RANKS = 1024
MAX_UNITS = 1 << 15  # of a block: FFN slices of 32 in the widest model
MAX_TOKENS = 1 << 30
MAX_SLOTS = 1024
MAX_DIRECT_TOKENS = 64  # each rank has two slots for each other
MAX_TEXT_CHARS = 2000
MAX_INT = 2**63 - 1


def plan_to_wire(plan: Plan) -> dict[str, Any]:
    wire: dict[str, Any] = _PLAN.dump_python(plan, mode="json")
    return wire


def plan_from_wire(wire: dict[str, Any]) -> Plan:
    """A plan that makes sense in itself; whether its shares fit the pack, loading finds. Raises RemoteProtocolError."""
    try:
        plan = _PLAN.validate_python(wire)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RemoteProtocolError(f"The coordinator sent a plan that is not sound: {where}: {first['msg']}.") from error
    for fault in _faults(plan):
        raise RemoteProtocolError(f"The coordinator sent a plan that is not sound: {fault}.")
    return plan


def _faults(plan: Plan) -> Iterator[str]:
    numbers = {
        "term": (plan.term, 0, MAX_INT),
        "context_tokens": (plan.context_tokens, 1, MAX_TOKENS),
        "max_pass_tokens": (plan.max_pass_tokens, 1, MAX_TOKENS),
        "n_slots": (plan.n_slots, 1, MAX_SLOTS),
        "direct_tokens": (plan.direct_tokens, 0, MAX_DIRECT_TOKENS),
        "number of ranks": (len(plan.ranks), 1, MAX_RANKS),
        "number of devices left out": (len(plan.left_out), 0, MAX_RANKS),
    }
    numbers |= {f"memory of rank {i}": (rank.memory_bytes, 0, MAX_INT) for i, rank in enumerate(plan.ranks)}
    for name, (value, least, most) in numbers.items():
        if not least <= value <= most:
            yield f"its {name} is {value}, not {least} to {most}"
    texts = [plan.pack, plan.model, plan.wire_dtype]
    texts += [text for rank in plan.ranks for text in (rank.device, rank.name)]
    texts += [text for entry in plan.left_out for text in (entry.device, entry.name, entry.reason)]
    if not all(0 < len(text) <= MAX_TEXT_CHARS and text.isprintable() for text in texts):
        yield f"a text in it is empty, not printable or longer than {MAX_TEXT_CHARS}"
    devices = [rank.device for rank in plan.ranks] + [entry.device for entry in plan.left_out]
    if len(set(devices)) < len(devices):
        yield "it names a device twice"
    for half in Half:
        yield from _share_faults(half, [rank.share.of(half) for rank in plan.ranks])


def _share_faults(half: Half, ranges: list[UnitRange]) -> Iterator[str]:
    """Ranks follow each other without a gap, from unit 0 on."""
    stop = 0
    for rank, units in enumerate(ranges):
        if units.start != stop or not units.start <= units.stop <= MAX_UNITS:
            yield f"rank {rank} has {half} units {units.start} to {units.stop} where the rank before ends at {stop}"
            return
        stop = units.stop
    if stop == 0:
        yield f"no rank has {half} units"

"""A plan, and its form on the wire."""

from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tpid.device import DeviceId
from tpid.errors import RemoteProtocolError
from tpid.pack.geometry import Share
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

    @property
    def world_size(self) -> int:
        return len(self.ranks)

    def rank_of(self, device: DeviceId) -> int | None:
        return next((rank for rank, part in enumerate(self.ranks) if part.device == device), None)


_PLAN = TypeAdapter(Plan)


def plan_to_wire(plan: Plan) -> dict[str, Any]:
    wire: dict[str, Any] = _PLAN.dump_python(plan, mode="json")
    return wire


def plan_from_wire(wire: dict[str, Any]) -> Plan:
    """Raises RemoteProtocolError."""
    try:
        return _PLAN.validate_python(wire)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RemoteProtocolError(f"The coordinator sent a plan that is not sound: {where}: {first['msg']}.") from error

"""The devices of a home as rows: what each is, and what it does."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tpictl.client.answers import Device, Plan, Rank, Status, WeightUse

SORTS: Final = ("name", "share", "state", "round trip")


@dataclass(frozen=True, slots=True)
class Row:
    id: str
    name: str
    is_me: bool
    state: str  # coordinates, computes, left out, sits out, connected, lost
    since_s: float | None
    share: float | None  # of the weights
    weights: WeightUse | None
    load: float | None  # of its cores
    rtt_s: float | None

    @property
    def is_lost(self) -> bool:
        return self.state == "lost"


def rows_of(status: Status, sort: str) -> list[Row]:
    """This device first, then the others in the order of `sort`."""
    rows = [_row(status, device) for device in status.cluster.devices]
    here = {row.id for row in rows}
    rows += [
        Row(away.id, away.name, False, "lost", away.since_s, None, None, None, None)
        for away in status.away
        if away.id not in here
    ]
    return sorted(rows, key=lambda row: (not row.is_me, _ORDERS[sort](row), row.name, row.id))


_ORDERS: Final[Mapping[str, Callable[[Row], tuple[float, str]]]] = {
    "name": lambda row: (0.0, row.name),
    "share": lambda row: (-(row.share or 0.0), ""),
    "state": lambda row: (0.0, row.state),
    "round trip": lambda row: (row.rtt_s if row.rtt_s is not None else float("inf"), ""),
}


def _row(status: Status, device: Device) -> Row:
    id = device.profile.id
    holding = status.holding if device.is_me and status.plan is None else None
    return Row(
        id=id,
        name=device.profile.name,
        is_me=device.is_me,
        state=_state(status, device),
        since_s=device.since_s,
        share=_share(status, id),
        weights=holding.weights if holding is not None else status.weights.get(id),
        load=status.host.load if device.is_me and status.host is not None else None,
        rtt_s=device.rtt_s,
    )


def _state(status: Status, device: Device) -> str:
    plan, id = status.plan, device.profile.id
    if device.sits_out is not None:
        return "sits out"
    if device.coordinates:
        return "coordinates"
    if (plan is not None and _rank(plan, id) is not None) or (device.is_me and status.holding is not None):
        return "computes"
    if plan is not None and any(entry.device == id for entry in plan.left_out):
        return "left out"
    return "connected" if not device.is_me else "here"


def _share(status: Status, id: str) -> float | None:
    """Of all weights, by what the ranks hold and stream; before they have told, of the FFN."""
    plan = status.plan
    rank = _rank(plan, id) if plan is not None else None
    if plan is None or rank is None:
        return None
    bytes_of = {device: use.resident_bytes + use.streamed_bytes for device, use in status.weights.items()}
    if all(bytes_of.get(each.device) for each in plan.ranks):
        return bytes_of[id] / sum(bytes_of[each.device] for each in plan.ranks)
    return rank.share.ffn.n_units / plan.n_ffn_units if plan.n_ffn_units else None


def _rank(plan: Plan, id: str) -> Rank | None:
    return next((rank for rank in plan.ranks if rank.device == id), None)

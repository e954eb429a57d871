"""Which devices take part: those with which a token takes the least time.

A device brings memory, disk and cores, and costs exchanges. All subsets of a home are looked at, the most promising
first, by a bound that no division of the subset can beat; so few of them are divided at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from tpid.device import DeviceProfile
from tpid.plan.division import Division, StreamTables, divide, floor_s
from tpid.plan.footprint import Workload

MAX_ALL_SUBSETS = 9  # workers of which all subsets are looked at; of more, only those of a few orders
_SLACK = 1 + 1e-9

LinkTime = Callable[[Sequence[DeviceProfile]], float]  # seconds of a token's exchanges; the first device coordinates


@dataclass(frozen=True, slots=True)
class Choice:
    """The devices that take part, the coordinator first."""

    devices: tuple[DeviceProfile, ...]
    tpot_s: float


def choose_devices(
    work: Workload,
    devices: Sequence[DeviceProfile],
    link_s: LinkTime,
    *,
    tables: StreamTables | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Choice | None:
    """The fastest subset with the first of `devices`, the coordinator; None where none holds the model.

    Of two that are equally fast, the larger. Once `stop` says so, the best that was found.
    """
    tables = tables or StreamTables(work)
    best: Choice | None = None
    for floor, chosen in _by_promise(work, devices, link_s):
        if best is not None and (floor * _SLACK >= best.tpot_s or stop()):
            break
        division = divide(work, chosen, link_s=link_s(chosen), tables=tables)
        if division is not None and (best is None or division.tpot_s * _SLACK < best.tpot_s):
            best = Choice(chosen, division.tpot_s)
    return best


def with_device(
    work: Workload, choice: Choice, device: DeviceProfile, link_s: LinkTime, tables: StreamTables
) -> Division | None:
    """The choice with one more device: what it would have meant."""
    coordinator, *others = choice.devices
    more = coordinator, *sorted([*others, device], key=lambda one: one.id)
    return divide(work, more, link_s=link_s(more), tables=tables)


def _by_promise(
    work: Workload, devices: Sequence[DeviceProfile], link_s: LinkTime
) -> list[tuple[float, tuple[DeviceProfile, ...]]]:
    """Subsets with the least time that each can take; the larger first where these are equal."""
    found = [(floor_s(work, chosen, link_s(chosen)), chosen) for chosen in _subsets(devices, link_s)]
    found.sort(key=lambda entry: (entry[0], -len(entry[1])))
    return found


def _subsets(devices: Sequence[DeviceProfile], link_s: LinkTime) -> Iterator[tuple[DeviceProfile, ...]]:
    """Each once, in the order of `devices`."""
    coordinator, *others = devices
    if len(others) <= MAX_ALL_SUBSETS:
        for size in range(len(others) + 1):
            for some in combinations(others, size):
                yield coordinator, *some
        return
    far_s = {other.id: link_s((coordinator, other)) for other in others}
    orders: tuple[Callable[[DeviceProfile], tuple[float, str]], ...] = (
        lambda one: (far_s[one.id], one.id),
        lambda one: (-one.read_bytes_s, one.id),
        lambda one: (-float(one.budget_bytes), one.id),
        lambda one: (-one.read_bytes_s / (1e-4 + far_s[one.id]), one.id),
    )
    seen = set()
    for order in orders:
        ordered = sorted(others, key=order)
        for size in range(len(ordered) + 1):
            ids = frozenset(one.id for one in ordered[:size])
            if ids not in seen:
                seen.add(ids)
                yield coordinator, *(other for other in others if other.id in ids)

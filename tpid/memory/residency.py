"""Which items of a pass stay in memory and which stream, and what that costs in time. Numbers only, no I/O.

A pass uses its items (block halves, then slices of the head) one after the other and then starts anew, so what was
used last is what is needed last: nothing is gained by remembering, all by knowing the order. What does not stay
resident streams through a window, a ring of memory in which items lie one behind the other, each in one piece: one
that does not fit before the end of the ring starts at its beginning. The disk reads on as soon as there are free
bytes, also into the place of an item half of which is free already, and across the end of a pass into the next.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

from tpid.errors import MemoryPlanError
from tpid.size import shown_size

# Compute is as fast as was measured, or slower: other programs run, other ranks are waited for. A plan made for the
# first alone has the smallest window that does, which then keeps the disk waiting.
SLOWDOWNS = (1.0, 3.0)

# Sums of so many items that follow each other are tried as windows: with two the disk reads while one computes, more
# even out items of different size where disk and compute are about equally fast.
_WINDOW_ITEMS = (1, 2, 3, 4, 6)
_MAX_CLASSES = 4  # of sizes that are treated apart: any set of them may stream
_PHASES = (0.0, 0.5)
_COUNTS_TRIED = range(-2, 3)  # around a proportional number of residents
_SIMULATED = 32  # candidates, best bound first
_STARTS = 3  # of them the best are improved
_IMPROVED = 100  # simulations that exchanging single items may take, from each start
_NEAR = 8  # items that may be exchanged lie within so many
_WORTH_IT = 0.9999  # shorter by less is rounding
_WARM_PASSES, _PASSES = 2, 4  # not the same each time: the places in the ring move on


@dataclass(frozen=True, slots=True)
class Item:
    """What a pass uses in one piece: a rank's share of a block, or a slice of the head."""

    packed_bytes: int  # on disk and in the window; 0 where the share has nothing in this block
    compute_s: float  # what a pass takes with it, exchange with other ranks included
    unpacked_bytes: int = 0  # what the backend makes of it, if it does not compute with the packed bytes

    @property
    def held_bytes(self) -> int:
        """In memory when resident."""
        return self.unpacked_bytes or self.packed_bytes


@dataclass(frozen=True, slots=True)
class ResidencyPlan:
    """Item by item what is resident; the others stream in their order through a ring of `window_bytes`."""

    resident: tuple[bool, ...]
    window_bytes: int
    unpack_bytes: int  # beside the window: streamed items in the form that the backend computes with
    resident_bytes: int  # as held
    streamed_bytes: int  # read in each pass

    @property
    def memory_bytes(self) -> int:
        return self.resident_bytes + self.window_bytes + self.unpack_bytes


@dataclass(frozen=True, slots=True)
class Steady:
    """A pass when many have gone before; seconds."""

    pass_s: float
    stall_s: float  # compute waited for the disk
    disk_idle_s: float  # the disk waited for room in the window


def least_bytes(items: Sequence[Item]) -> int:
    """With less, `plan_residency` fails: room for the largest item, or for all of them."""
    largest = max((item.packed_bytes for item in items), default=0)
    everything = sum(item.held_bytes for item in items)
    return min(everything, largest + _unpack_bytes(items, [True] * len(items)))


def plan_residency(
    items: Sequence[Item], budget_bytes: int, disk_bytes_s: float, slowdowns: Sequence[float] = SLOWDOWNS
) -> ResidencyPlan:
    """Of many plans that use the budget well, the best over all `slowdowns` of compute. Raises MemoryPlanError."""
    everything = sum(item.held_bytes for item in items)
    if everything <= budget_bytes:
        return _plan(items, [False] * len(items), 0)
    if budget_bytes < least_bytes(items):
        raise MemoryPlanError(
            f"{shown_size(budget_bytes)} are left for weights, but streaming them takes "
            f"{shown_size(least_bytes(items))} at least.",
            hint="Raise memory_budget, lower context_tokens, or add a device.",
        )
    judge = _Judge(items, disk_bytes_s, slowdowns)
    ranked = sorted(set(_candidates(items, budget_bytes)), key=lambda plan: (judge.bound(plan), plan.window_bytes))
    tried: list[tuple[float, int, ResidencyPlan]] = []
    for plan in ranked[:_SIMULATED]:
        if len(tried) >= _STARTS and judge.bound(plan) >= sorted(tried)[_STARTS - 1][0]:
            break
        tried.append((judge.cost(plan), len(tried), plan))
    ends = [_improve(items, plan, cost, budget_bytes, judge) for cost, _, plan in sorted(tried)[:_STARTS]]
    return min(ends, key=lambda end: end[1])[0]


def simulate(
    items: Sequence[Item],
    plan: ResidencyPlan,
    disk_bytes_s: float,
    passes: int = _PASSES,
    warm_passes: int = _WARM_PASSES,
) -> Steady:
    """The mean of `passes` after `warm_passes`: one disk, one compute, both in the order of the pass."""
    ring = plan.window_bytes
    used: list[tuple[int, float]] = []  # where an item began, counted on and on, and when it was released
    passed = 0  # of `used`: their bytes have been read over
    position, disk_s, compute_s, stall_s = 0, 0.0, 0.0, 0.0
    start_s = start_stall_s = 0.0
    for number in range(warm_passes + passes):
        if number == warm_passes:
            start_s, start_stall_s = compute_s, stall_s
        for item, resident in zip(items, plan.resident, strict=True):
            size = 0 if resident else item.packed_bytes
            if size == 0:
                compute_s += item.compute_s
                continue
            if position % ring + size > ring:
                position += ring - position % ring
            begin, end = position, position + size
            while passed < len(used) and used[passed][0] + ring < end:
                free_from, released_s = max(position, used[passed][0] + ring), used[passed][1]
                disk_s = max(disk_s + (free_from - position) / disk_bytes_s, released_s)
                position, passed = free_from, passed + 1
            disk_s += (end - position) / disk_bytes_s
            position = end
            stall_s += max(disk_s - compute_s, 0.0)
            compute_s = max(disk_s, compute_s) + item.compute_s
            used.append((begin, compute_s))
    pass_s = (compute_s - start_s) / passes
    return Steady(pass_s, (stall_s - start_stall_s) / passes, max(pass_s - plan.streamed_bytes / disk_bytes_s, 0.0))


def _plan(items: Sequence[Item], streamed: Sequence[bool], window_bytes: int) -> ResidencyPlan:
    return ResidencyPlan(
        tuple(not streams for streams in streamed),
        window_bytes,
        _unpack_bytes(items, streamed),
        sum(item.held_bytes for item, streams in zip(items, streamed, strict=True) if not streams),
        sum(item.packed_bytes for item, streams in zip(items, streamed, strict=True) if streams),
    )


def _unpack_bytes(items: Sequence[Item], streamed: Sequence[bool]) -> int:
    """Of two streamed items that follow each other: the first is there while the second is unpacked."""
    sizes = [item.unpacked_bytes for item, streams in zip(items, streamed, strict=True) if streams]
    return _largest_run(sizes, 2)


def _largest_run(sizes: Sequence[int], length: int) -> int:
    """The largest sum of `length` neighbours in the cycle; of all, where they are fewer."""
    if len(sizes) <= length:
        return sum(sizes)
    around = [*sizes, *sizes[: length - 1]]
    return max(sum(around[i : i + length]) for i in range(len(sizes)))


class _Judge:
    """What a plan costs: the time of a pass beside what no plan goes below, added up over all slowdowns."""

    def __init__(self, items: Sequence[Item], disk_bytes_s: float, slowdowns: Sequence[float]) -> None:
        self._disk_bytes_s = max(disk_bytes_s, 1.0)  # one that was not measured
        self._cases = [[replace(item, compute_s=item.compute_s * slowdown) for item in items] for slowdown in slowdowns]
        self._compute_s = [sum(item.compute_s for item in case) for case in self._cases]

    def cost(self, plan: ResidencyPlan) -> float:
        times = [simulate(case, plan, self._disk_bytes_s).pass_s for case in self._cases]
        return sum(pass_s / self._unit_s(compute_s) for pass_s, compute_s in zip(times, self._compute_s, strict=True))

    def bound(self, plan: ResidencyPlan) -> float:
        """No pass is shorter than all compute, and all reading, however well they overlap."""
        disk_s = plan.streamed_bytes / self._disk_bytes_s
        return sum(max(compute_s, disk_s) / self._unit_s(compute_s) for compute_s in self._compute_s)

    def _unit_s(self, compute_s: float) -> float:
        return max(compute_s, sum(item.packed_bytes for item in self._cases[0]) / self._disk_bytes_s)


def _candidates(items: Sequence[Item], budget_bytes: int) -> Iterator[ResidencyPlan]:
    """Plans within the budget: any set of sizes streams, evenly spread, through windows of a few items."""
    classes = _classes(items)
    for n in range(1, len(classes) + 1):
        for streaming in combinations(classes, n):
            may_stream = sorted(index for indexes in streaming for index in indexes)
            sizes = [items[index].packed_bytes for index in may_stream]
            for window in sorted({_largest_run(sizes, length) for length in _WINDOW_ITEMS}):
                room = budget_bytes - window - _largest_run([items[i].unpacked_bytes for i in may_stream], 2)
                room -= sum(item.held_bytes for item in items) - sum(items[i].held_bytes for i in may_stream)
                if room < 0 or window < max(sizes):
                    continue
                for counts in _counts(items, streaming, room):
                    for phases in product(_PHASES, repeat=len(streaming) - 1):
                        yield from _windows(items, _spread(items, streaming, counts, (0.0, *phases)), budget_bytes)


def _classes(items: Sequence[Item]) -> list[list[int]]:
    """Items by size, those that are most in bytes first; the rarest sizes are taken together."""
    by_size: dict[int, list[int]] = {}
    for index, item in enumerate(items):
        if item.packed_bytes:
            by_size.setdefault(item.packed_bytes, []).append(index)
    classes = sorted(by_size.values(), key=lambda indexes: -sum(items[index].packed_bytes for index in indexes))
    rest = sorted(index for indexes in classes[_MAX_CLASSES - 1 :] for index in indexes)
    return [*classes[: _MAX_CLASSES - 1], rest] if rest else classes


def _counts(items: Sequence[Item], streaming: Sequence[Sequence[int]], room: int) -> Iterator[tuple[int, ...]]:
    """How many of each class may be resident in `room`: in proportion, then filled up in any order."""
    held = [max(items[index].held_bytes for index in indexes) for indexes in streaming]
    total = sum(size * len(indexes) for size, indexes in zip(held, streaming, strict=True))
    even = [int(len(indexes) * min(room / total, 1.0)) for indexes in streaming]
    seen = set()
    for change in _COUNTS_TRIED:
        first = min(max(even[0] + change, 0), len(streaming[0]))
        for order in (range(1, len(even)), range(len(even) - 1, 0, -1)):
            counts = [first, *even[1:]]
            left = room - sum(n * size for n, size in zip(counts, held, strict=True))
            for c in (*order, 0):
                more = min(max(left // held[c], -counts[c]), len(streaming[c]) - counts[c])
                counts[c] += more
                left -= more * held[c]
            if left >= 0 and tuple(counts) not in seen:
                seen.add(tuple(counts))
                yield tuple(counts)


def _spread(
    items: Sequence[Item], streaming: Sequence[Sequence[int]], counts: Sequence[int], phases: Sequence[float]
) -> list[bool]:
    """Item by item whether it streams: in each class the resident ones are evenly spread, the first at its phase."""
    streamed = [False] * len(items)
    for indexes, count, phase in zip(streaming, counts, phases, strict=True):
        n = len(indexes)
        for k, index in enumerate(indexes):
            resident = int((k + 1) * count / n + phase) > int(k * count / n + phase)
            streamed[index] = not resident
    return streamed


def _improve(
    items: Sequence[Item], best: ResidencyPlan, least: float, budget_bytes: int, judge: _Judge
) -> tuple[ResidencyPlan, float]:
    """Change or exchange single items, or the window, while that lowers the cost."""
    judged = 0
    improved = True
    while improved:
        improved = False
        for plan in _neighbours(items, best, budget_bytes):
            if judge.bound(plan) >= least * _WORTH_IT:
                continue
            judged += 1
            if judged > _IMPROVED:
                return best, least
            cost = judge.cost(plan)
            if cost < least * _WORTH_IT:
                best, least, improved = plan, cost, True
                break
    return best, least


def _neighbours(items: Sequence[Item], plan: ResidencyPlan, budget_bytes: int) -> Iterator[ResidencyPlan]:
    """Plans within the budget that differ in one item, or in two near each other, with any window that is of use."""
    streamed = [not resident for resident in plan.resident]
    near = [(i, j) for i in range(len(items)) for j in range(i, min(i + _NEAR, len(items)))]
    for i, j in near:
        if i != j and (streamed[i] == streamed[j]):
            continue
        changed = list(streamed)
        changed[i] = not changed[i]
        if i != j:
            changed[j] = not changed[j]
        yield from _windows(items, changed, budget_bytes)


def _windows(items: Sequence[Item], streamed: Sequence[bool], budget_bytes: int) -> Iterator[ResidencyPlan]:
    """All windows of use for these streamed items within the budget: of a few items, and all that is left."""
    sizes = [item.packed_bytes for item, streams in zip(items, streamed, strict=True) if streams]
    room = budget_bytes - _plan(items, streamed, 0).memory_bytes
    if room < max(sizes, default=0) or not any(sizes):
        return
    useful = {_largest_run(sizes, length) for length in _WINDOW_ITEMS}
    for window in sorted({size for size in useful if size <= room} | {min(room, max(useful))}):
        yield _plan(items, streamed, window)

"""Dividing a model among devices so that a token takes the least time that their memory and disks allow.

A time is given, and it is asked whether any division keeps within it; the least such time is found by bisection.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from tpid.device import DeviceProfile
from tpid.pack.geometry import Share, UnitRange
from tpid.plan.cost import NEVER_S, attn_unit_s, ffn_unit_s, head_s, stream_s
from tpid.plan.footprint import Workload, packed_bytes

MAX_ATTN_LIMITS = 128  # times of the attention halves that are tried: all of them, but for large clusters
_BISECTIONS = 50
_MAX_UNITS_ONE_BY_ONE = 64
_SLACK = 1 + 1e-9  # a time is kept if rounding alone stands between


@dataclass(frozen=True, slots=True)
class Division:
    """One share a device, the coordinator's first; together they cover every unit exactly once."""

    shares: tuple[Share, ...]
    compute_s: float  # of a token, on the slowest rank of each half, and the head
    stream_s: float  # on the slowest disk
    link_s: float = 0.0  # of a token: all its exchanges

    @property
    def tpot_s(self) -> float:
        """Compute and exchanges follow each other, disks read beside them."""
        return max(self.compute_s + self.link_s, self.stream_s)


def divide(
    work: Workload, devices: Sequence[DeviceProfile], *, link_s: float = 0.0, tables: StreamTables | None = None
) -> Division | None:
    """The fastest division, the first device coordinating; None where none fits all budgets.

    `link_s` is what a token's exchanges between these devices take. Of two divisions that are equally fast, the one
    in which nothing streams.
    """
    return _Search(work, devices, link_s, tables or StreamTables(work)).best()


def floor_s(work: Workload, devices: Sequence[DeviceProfile], link_s: float) -> float:
    """No division takes less: as if the FFN could be cut anywhere, and memory lay where it is wanted."""
    attn_s = _least_longest([attn_unit_s(work, device) for device in devices], work.n_attn_units)
    ffn_s = work.n_ffn_units / sum(1 / ffn_unit_s(work, device) for device in devices)
    packed = packed_bytes(work, work.n_attn_units, work.n_ffn_units, coordinator=True)
    streamed = max(packed - sum(device.budget_bytes for device in devices), 0)
    disks = sum(device.disk_bytes_s for device in devices)
    return max(link_s + attn_s + ffn_s + head_s(work, devices[0]), streamed / disks if disks > 0 else 0.0)


def _least_longest(unit_s: Sequence[float], n_units: int) -> float:
    """The least time in which devices that take `unit_s` for a unit do them all."""
    if n_units > _MAX_UNITS_ONE_BY_ONE:
        return n_units / sum(1 / one_s for one_s in unit_s)
    done_s = list(unit_s)  # of each device with one unit more than it has
    longest_s = 0.0
    for _ in range(n_units):
        longest_s = min(done_s)
        first = done_s.index(longest_s)
        done_s[first] += unit_s[first]
    return longest_s


class StreamTables:
    """What each device's disk takes for each share of `work`; made once for all divisions of it."""

    def __init__(self, work: Workload) -> None:
        self._work = work
        self._known: dict[tuple[str, int, float, bool], list[list[float]]] = {}

    def of(self, device: DeviceProfile, *, coordinator: bool) -> list[list[float]]:
        """[attention units][FFN units]; rows end where the budget does."""
        key = (device.backend, device.budget_bytes, device.disk_bytes_s, coordinator)
        if key not in self._known:
            self._known[key] = _stream_table(self._work, device, coordinator=coordinator)
        return self._known[key]


class _Search:
    def __init__(self, work: Workload, devices: Sequence[DeviceProfile], link_s: float, tables: StreamTables) -> None:
        self._work = work
        self._link_s = link_s
        self._attn_s = [attn_unit_s(work, device) for device in devices]
        self._ffn_s = [ffn_unit_s(work, device) for device in devices]
        self._head_s = head_s(work, devices[0])
        self._beside_s = self._head_s + link_s  # of a token, however the layers are divided
        self._stream_s = [tables.of(device, coordinator=number == 0) for number, device in enumerate(devices)]
        self._attn_limits_s = self._attn_limits()

    def best(self) -> Division | None:
        found: Division | None = None
        # No division is faster than one of FFN units that could be cut anywhere.
        floor_s = self._beside_s + self._work.n_ffn_units / sum(1 / ffn_s for ffn_s in self._ffn_s)
        for limit_s in self._attn_limits_s:
            if found is not None and limit_s + floor_s >= found.tpot_s:
                break
            found = self._fastest(limit_s, found) or found
        return found and (self._silent(found.tpot_s) or found)

    def _silent(self, time_s: float) -> Division | None:
        """One that takes no longer and in which nothing streams."""
        for limit_s in self._attn_limits_s:
            division = self._within(time_s, 0.0, limit_s)
            if division is not None and division.tpot_s <= time_s:
                return division
        return None

    def _attn_limits(self) -> list[float]:
        """Times that the attention halves of a token may take, from the least that is possible."""
        work, limits = self._work, set()
        for unit_s in self._attn_s:
            limits |= {n * unit_s for n in range(work.n_attn_units + 1)}
        possible = sorted(limit_s for limit_s in limits if sum(self._attn_most(limit_s)) >= work.n_attn_units)
        step = -(-len(possible) // MAX_ATTN_LIMITS)
        return sorted({*possible[::step], possible[-1]})

    def _attn_most(self, limit_s: float) -> list[int]:
        return [min(int(limit_s * _SLACK / unit_s), self._work.n_attn_units) for unit_s in self._attn_s]

    def _fastest(self, attn_limit_s: float, known: Division | None) -> Division | None:
        """The fastest division with this limit, if it is faster than the one that is known."""
        base_s = attn_limit_s + self._beside_s
        high_s = known.tpot_s / _SLACK**2 if known is not None else self._longest_s(base_s)
        found = self._within(high_s, high_s, attn_limit_s)
        low_s = base_s
        for _ in range(_BISECTIONS):
            if found is None or found.tpot_s <= low_s * _SLACK:
                return found
            middle_s = (low_s + found.tpot_s) / 2
            closer = self._within(middle_s, middle_s, attn_limit_s)
            if closer is None:
                low_s = middle_s
            else:
                found = closer
        return found

    def _longest_s(self, base_s: float) -> float:
        """No division that fits takes longer."""
        slowest_disk_s = max((row[-1] for table in self._stream_s for row in table if row), default=0.0)
        return max(base_s + self._work.n_ffn_units * max(self._ffn_s), slowest_disk_s) * _SLACK

    def _within(self, time_s: float, stream_limit_s: float, attn_limit_s: float) -> Division | None:
        """A division that takes `time_s` at most, and whose disks take `stream_limit_s`; None if there is none."""
        ffn_limit_s = time_s - self._beside_s - attn_limit_s
        if ffn_limit_s < 0:
            return None
        attn_most = self._attn_most(attn_limit_s)
        room = []  # room[device][attention units]: FFN units that it can take beside them; ends where none fit
        for table, most, unit_s in zip(self._stream_s, attn_most, self._ffn_s, strict=True):
            ffn_most = min(int(ffn_limit_s * _SLACK / unit_s), self._work.n_ffn_units)
            row_room = (min(bisect_right(row, stream_limit_s) - 1, ffn_most) for row in table[: most + 1])
            room.append(list(takewhile(lambda n: n >= 0, row_room)))
        attn = self._attention(room)
        if attn is None:
            return None
        capacity = [row[n] for row, n in zip(room, attn, strict=True)]
        ffn = apportion(self._work.n_ffn_units, [1 / unit_s for unit_s in self._ffn_s], capacity)
        return None if ffn is None else self._division(attn, ffn)

    def _attention(self, room: Sequence[Sequence[int]]) -> list[int] | None:
        """The division of attention in proportion to speed, else the one that leaves room for most FFN units."""
        if not all(room):
            return None
        n_units = self._work.n_attn_units
        plain = apportion(n_units, [1 / unit_s for unit_s in self._attn_s], [len(row) - 1 for row in room])
        if plain is None:
            return None
        if sum(row[n] for row, n in zip(room, plain, strict=True)) >= self._work.n_ffn_units:
            return plain
        return _sparing_attention(n_units, room)

    def _division(self, attn: Sequence[int], ffn: Sequence[int]) -> Division:
        attn_s = max(n * unit_s for n, unit_s in zip(attn, self._attn_s, strict=True))
        ffn_s = max(n * unit_s for n, unit_s in zip(ffn, self._ffn_s, strict=True))
        streams = max(table[a][f] for table, a, f in zip(self._stream_s, attn, ffn, strict=True))
        shares = tuple(Share(a, f) for a, f in zip(_ranges(attn), _ranges(ffn), strict=True))
        return Division(shares, attn_s + ffn_s + self._head_s, streams, self._link_s)


def _stream_table(work: Workload, device: DeviceProfile, *, coordinator: bool) -> list[list[float]]:
    """It grows in both directions: where a larger share needs a smaller window, as one with FFN beside large attention
    blocks may, it counts as the smaller share does.
    """

    def streams(n_ffn: int) -> bool:
        return _share_s(work, device, n_attn, n_ffn, coordinator) > 0

    table: list[list[float]] = []
    above = [0.0] * (work.n_ffn_units + 1)
    for n_attn in range(work.n_attn_units + 1):
        n_silent = bisect_left(range(len(above)), True, key=streams)  # what is resident is so with less, too
        row = [0.0] * n_silent
        for n_ffn, least_s in enumerate(above[n_silent:], n_silent):
            takes_s = max(_share_s(work, device, n_attn, n_ffn, coordinator), least_s, row[-1] if row else 0.0)
            if takes_s == NEVER_S:
                break
            row.append(takes_s)
        table.append(row)
        above = row
    return table


def _share_s(work: Workload, device: DeviceProfile, n_attn: int, n_ffn: int, coordinator: bool) -> float:
    if not (n_attn or n_ffn or coordinator):
        return 0.0  # a device without a share is left out, whatever its budget
    return stream_s(work, device, n_attn, n_ffn, coordinator=coordinator)


def fits(work: Workload, devices: Sequence[DeviceProfile]) -> bool:
    """Whether there is any division at all, however slow; costs far less than to find the fastest."""

    def most_ffn(device: DeviceProfile, n_attn: int, coordinator: bool) -> int:
        def too_much(n_ffn: int) -> bool:
            shares = ((0, 0), (n_attn, 0), (0, n_ffn), (n_attn, n_ffn))
            return any(_share_s(work, device, *share, coordinator) == NEVER_S for share in shares)

        return bisect_left(range(work.n_ffn_units + 1), True, key=too_much) - 1

    room = []
    for number, device in enumerate(devices):
        rows = (most_ffn(device, n_attn, number == 0) for n_attn in range(work.n_attn_units + 1))
        room.append(list(takewhile(lambda n: n >= 0, rows)))
    attn = _sparing_attention(work.n_attn_units, room)
    return attn is not None and sum(row[n] for row, n in zip(room, attn, strict=True)) >= work.n_ffn_units


def _sparing_attention(n_units: int, room: Sequence[Sequence[int]]) -> list[int] | None:
    """Device by device, for each number of units given so far, the way to give them that leaves most room."""
    best: dict[int, tuple[int, tuple[int, ...]]] = {0: (0, ())}  # units given -> FFN units that fit, parts
    for row in room:
        longer: dict[int, tuple[int, tuple[int, ...]]] = {}
        for given, (fitting, parts) in best.items():
            for n, fits in enumerate(row[: n_units - given + 1]):
                candidate = fitting + fits
                if given + n not in longer or candidate > longer[given + n][0]:
                    longer[given + n] = candidate, (*parts, n)
        best = longer
    return list(best[n_units][1]) if n_units in best else None


def apportion(n_units: int, weights: Sequence[float], capacity: Sequence[int]) -> list[int] | None:
    """Divide `n_units` by largest remainder in proportion to `weights`, no part above its capacity.

    None where the capacities do not suffice. Ties go to the earlier part. Each turn of the loop hands out all
    that is missing or fills a part, so there are at most as many turns as parts.
    """
    if sum(capacity) < n_units:
        return None
    parts = [0] * len(weights)
    while (missing := n_units - sum(parts)) > 0:
        open_parts = [i for i, most in enumerate(capacity) if parts[i] < most]
        total = sum(weights[i] for i in open_parts)
        dues = {i: missing * weights[i] / total if total > 0 else missing / len(open_parts) for i in open_parts}
        for i in open_parts:
            parts[i] = min(parts[i] + int(dues[i]), capacity[i])
        by_remainder = sorted(open_parts, key=lambda i: (-(dues[i] - int(dues[i])), i))
        for i in by_remainder:
            if sum(parts) < n_units and parts[i] < capacity[i]:
                parts[i] += 1
    return parts


def _ranges(counts: Sequence[int]) -> list[UnitRange]:
    ranges, start = [], 0
    for count in counts:
        ranges.append(UnitRange(start, start + count))
        start += count
    return ranges

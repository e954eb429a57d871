"""Dividing a model among devices: in proportion to their speed, within their memory.

Attention and FFN are divided apart: KV groups are few, so a rank that gets less attention than its due
(or none, where there are more ranks than groups) is given more of the FFN.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tpid.device import DeviceProfile
from tpid.errors import MemoryPlanError
from tpid.pack.geometry import Share, UnitRange
from tpid.pack.manifest import PackId
from tpid.plan.footprint import (
    BACKENDS,
    Workload,
    attn_unit_bytes,
    ffn_unit_bytes,
    fixed_bytes,
    layers_bytes,
    share_bytes,
)
from tpid.plan.plan import LeftOut, Plan, Rank


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What a plan is wanted for."""

    term: int
    pack: PackId
    model: str
    work: Workload
    wire_dtype: str


def make_plan(request: PlanRequest, coordinator: DeviceProfile, others: Sequence[DeviceProfile]) -> Plan:
    """Proportional shares over the coordinator and all `others` that can take part.

    Raises MemoryPlanError where they cannot hold the model together.
    """
    work = request.work
    candidates = [coordinator, *sorted(others, key=lambda device: device.id)]
    left_out = []
    for device in candidates[1:]:
        reason = _unfit(request, device)
        if reason is not None:
            left_out.append(LeftOut(device.id, device.name, reason))
    refused = {entry.device for entry in left_out}
    devices = [device for device in candidates if device.id not in refused]

    ranks = []
    for device, share in zip(devices, divide(work, devices), strict=True):
        if device is coordinator or len(share.attn) or len(share.ffn):
            takes = share_bytes(work, device.backend, share, coordinator=device is coordinator)
            ranks.append(Rank(device.id, device.name, share, takes))
        else:
            left_out.append(LeftOut(device.id, device.name, "beside the others it is too slow for a part of the model"))
    return Plan(
        term=request.term,
        pack=request.pack,
        model=request.model,
        ranks=tuple(ranks),
        left_out=tuple(left_out),
        context_tokens=work.context_tokens,
        max_pass_tokens=work.max_pass_tokens,
        n_slots=work.n_slots,
        wire_dtype=request.wire_dtype,
    )


def divide(work: Workload, devices: Sequence[DeviceProfile]) -> list[Share]:
    """One share a device, the first device coordinating; together they cover every unit exactly once.

    Raises MemoryPlanError where no division into whole units fits all budgets.
    """
    room = [_room_bytes(work, d, coordinator=i == 0) for i, d in enumerate(devices)]
    attn_bytes = [attn_unit_bytes(work, d.backend) for d in devices]
    ffn_bytes = [ffn_unit_bytes(work, d.backend) for d in devices]
    fractions = _proportional(work, devices, room)

    attn = apportion(work.n_attn_units, fractions, [r // b for r, b in zip(room, attn_bytes, strict=True)])
    if attn is None:
        raise _too_large(work, devices)
    capacity = _ffn_capacity(attn, room, attn_bytes, ffn_bytes)
    if sum(capacity) < work.n_ffn_units:
        attn = _sparing_attention(work.n_attn_units, room, attn_bytes, ffn_bytes)
        capacity = _ffn_capacity(attn, room, attn_bytes, ffn_bytes)
    due = [f * work.layer_weights - n * work.attn_unit_weights for f, n in zip(fractions, attn, strict=True)]
    ffn = apportion(work.n_ffn_units, [max(weights, 0.0) for weights in due], capacity)
    if ffn is None:
        raise _too_large(work, devices)
    return [Share(a, f) for a, f in zip(_ranges(attn), _ranges(ffn), strict=True)]


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


def _room_bytes(work: Workload, device: DeviceProfile, *, coordinator: bool) -> int:
    """What a device's budget leaves for units. Raises MemoryPlanError where it is too small for a rank without any."""
    fixed = fixed_bytes(work, device.backend, coordinator=coordinator)
    if device.budget_bytes < fixed:
        raise MemoryPlanError(
            f"The memory budget of {device.name} is {device.budget_bytes / 1e9:.2f} GB, but before any layer "
            f"{'the coordinator' if coordinator else 'a rank'} takes {fixed / 1e9:.2f} GB.",
            hint=f"Raise memory_budget on {device.name}, or type on a device with more memory.",
        )
    return device.budget_bytes - fixed


def _ffn_capacity(
    attn: Sequence[int], room: Sequence[int], attn_bytes: Sequence[int], ffn_bytes: Sequence[int]
) -> list[int]:
    """FFN units that fit each device beside its attention units."""
    return [(r - n * a) // f for n, r, a, f in zip(attn, room, attn_bytes, ffn_bytes, strict=True)]


def _sparing_attention(
    n_units: int, room: Sequence[int], attn_bytes: Sequence[int], ffn_bytes: Sequence[int]
) -> list[int]:
    """The division of attention that leaves room for most FFN units in all, whatever the speeds.

    Device by device, it keeps for each number of units given so far the best way to give them; there is a way
    to give all of them.
    """
    best: dict[int, tuple[int, tuple[int, ...]]] = {0: (0, ())}  # units given -> FFN units that fit, parts
    for r, a, f in zip(room, attn_bytes, ffn_bytes, strict=True):
        longer: dict[int, tuple[int, tuple[int, ...]]] = {}
        for given, (fitting, parts) in best.items():
            for n in range(min(r // a, n_units - given) + 1):
                candidate = fitting + (r - n * a) // f
                if given + n not in longer or candidate > longer[given + n][0]:
                    longer[given + n] = candidate, (*parts, n)
        best = longer
    return list(best[n_units][1])


def _proportional(work: Workload, devices: Sequence[DeviceProfile], room: Sequence[int]) -> list[float]:
    """Each device's fraction of the weights: by speed, but none above what fits it."""
    total_bytes = [layers_bytes(work, d.backend) for d in devices]
    most = [r / b for r, b in zip(room, total_bytes, strict=True)]
    # In walks through all layers a second: a backend with smaller weights goes through more of them. A peer may
    # claim a speed of zero.
    speeds = [max(d.read_bytes_s, 1.0) / b for d, b in zip(devices, total_bytes, strict=True)]
    fractions = [0.0] * len(devices)
    free = list(range(len(devices)))
    while free:
        rest = max(1.0 - sum(fractions), 0.0)
        speed = sum(speeds[i] for i in free)
        full = [i for i in free if rest * speeds[i] / speed > most[i]]
        if not full:
            for i in free:
                fractions[i] = rest * speeds[i] / speed
            break
        for i in full:
            fractions[i] = most[i]
        free = [i for i in free if i not in full]
    return fractions


def _unfit(request: PlanRequest, device: DeviceProfile) -> str | None:
    if request.pack not in device.packs:
        return f"it does not have this model: import it there (tpictl import) or share models_dir ({request.model})"
    if device.backend not in BACKENDS:
        return f"its backend {device.backend} is unknown to the coordinator"
    least = fixed_bytes(request.work, device.backend, coordinator=False) + ffn_unit_bytes(request.work, device.backend)
    if device.budget_bytes < least:
        return f"its memory budget of {device.budget_bytes / 1e9:.2f} GB is below the {least / 1e9:.2f} GB of any share"
    return None


def _too_large(work: Workload, devices: Sequence[DeviceProfile]) -> MemoryPlanError:
    whole = Share(UnitRange(0, work.n_attn_units), UnitRange(0, work.n_ffn_units))
    needed = share_bytes(work, devices[0].backend, whole, coordinator=True)
    needed += sum(fixed_bytes(work, d.backend, coordinator=False) for d in devices[1:])
    have = ", ".join(f"{d.name} {d.budget_bytes / 1e9:.2f} GB" for d in devices)
    return MemoryPlanError(
        f"The model needs about {needed / 1e9:.2f} GB on these {len(devices)} devices, their budgets are: {have}.",
        hint="Add a device, raise memory_budget, or lower context_tokens in the configuration.",
    )


def _ranges(counts: Sequence[int]) -> list[UnitRange]:
    ranges, start = [], 0
    for count in counts:
        ranges.append(UnitRange(start, start + count))
        start += count
    return ranges

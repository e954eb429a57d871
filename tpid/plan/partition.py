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
    WEIGHT_BYTES,
    Workload,
    attn_unit_bytes,
    ffn_unit_bytes,
    fixed_bytes,
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

    shares = divide(work, devices)
    ranks = tuple(
        Rank(d.id, d.name, share, share_bytes(work, d.backend, share, coordinator=d.id == coordinator.id))
        for d, share in zip(devices, shares, strict=True)
    )
    return Plan(
        term=request.term,
        pack=request.pack,
        model=request.model,
        ranks=ranks,
        left_out=tuple(left_out),
        context_tokens=work.context_tokens,
        max_pass_tokens=work.max_pass_tokens,
        n_slots=work.n_slots,
        wire_dtype=request.wire_dtype,
    )


def divide(work: Workload, devices: Sequence[DeviceProfile]) -> list[Share]:
    """One share a device, the first device coordinating; together they cover every unit exactly once.

    Raises MemoryPlanError.
    """
    room = [d.budget_bytes - fixed_bytes(work, d.backend, coordinator=i == 0) for i, d in enumerate(devices)]
    attn_bytes = [attn_unit_bytes(work, d.backend) for d in devices]
    ffn_bytes = [ffn_unit_bytes(work, d.backend) for d in devices]
    fractions = _proportional(work, devices, room)

    attn = apportion(work.n_attn_units, fractions, [max(r, 0) // b for r, b in zip(room, attn_bytes, strict=True)])
    if attn is None:
        raise _too_large(work, devices)
    due = [f * work.layer_weights - n * work.attn_unit_weights for f, n in zip(fractions, attn, strict=True)]
    left = [max(r - n * b, 0) for r, n, b in zip(room, attn, attn_bytes, strict=True)]
    capacity = [rest // b for rest, b in zip(left, ffn_bytes, strict=True)]
    ffn = apportion(work.n_ffn_units, [max(weights, 0.0) for weights in due], capacity)
    if ffn is None:
        raise _too_large(work, devices)
    return [Share(a, f) for a, f in zip(_ranges(attn), _ranges(ffn), strict=True)]


def apportion(n_units: int, weights: Sequence[float], capacity: Sequence[int]) -> list[int] | None:
    """Divide `n_units` by largest remainder in proportion to `weights`, no part above its capacity.

    None where the capacities do not suffice. Ties go to the earlier part.
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


def _proportional(work: Workload, devices: Sequence[DeviceProfile], room: Sequence[int]) -> list[float]:
    """Each device's fraction of the weights: by speed, but none above what fits it."""
    total_bytes = [work.spec.n_layers * work.layer_weights * WEIGHT_BYTES[d.backend] for d in devices]
    most = [max(r, 0) / b for r, b in zip(room, total_bytes, strict=True)]
    fractions = [0.0] * len(devices)
    free = list(range(len(devices)))
    while free:
        rest = 1.0 - sum(fractions)
        speed = sum(devices[i].read_bytes_s for i in free)
        full = [i for i in free if rest * devices[i].read_bytes_s / speed > most[i]]
        if not full:
            for i in free:
                fractions[i] = rest * devices[i].read_bytes_s / speed
            break
        for i in full:
            fractions[i] = most[i]
        free = [i for i in free if i not in full]
    return fractions


def _unfit(request: PlanRequest, device: DeviceProfile) -> str | None:
    if request.pack not in device.packs:
        return f"it does not have this model: import it there (tpictl import) or share models_dir ({request.model})"
    if device.backend not in WEIGHT_BYTES:
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

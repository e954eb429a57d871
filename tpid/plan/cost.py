"""What a share costs in time, at one token: the cost model mirrors the pass.

All ranks meet in an allreduce after each half of a layer, so a step of attention takes as long as the slowest rank's
attention, and FFN likewise; the head comes last, on the coordinator alone. A rank's disk reads all the while, across
the end of a pass into the next: what it streams bounds the pass as a whole.
"""

from dataclasses import dataclass

from tpid.device import DeviceProfile
from tpid.plan.footprint import (
    Workload,
    attn_weight_bytes,
    ffn_weight_bytes,
    fixed_bytes,
    head_bytes,
    packed_bytes,
    weights_bytes,
    window_bytes,
)

NEVER_S = float("inf")


@dataclass(frozen=True, slots=True)
class Residency:
    """Where a rank's weights are; bytes. The blocks that stream are read once in each pass."""

    resident_bytes: int  # in memory
    streamed_bytes: int  # on disk
    window_bytes: int  # of memory through which they stream


def residency_of(
    work: Workload, device: DeviceProfile, n_attn: int, n_ffn: int, memory_bytes: int, *, coordinator: bool
) -> Residency | None:
    """All resident, or all but the smallest window; None where the memory does not hold that.

    As if a block could be cut anywhere: tpid.memory.residency decides on whole blocks.
    """
    backend = device.backend
    room = memory_bytes - fixed_bytes(work, backend, n_attn, n_ffn, coordinator=coordinator)
    weights = weights_bytes(work, backend, n_attn, n_ffn, coordinator=coordinator)
    if room >= weights:
        return Residency(weights, 0, 0)
    window = window_bytes(work, backend, n_attn, n_ffn, coordinator=coordinator)
    if room < window or device.disk_bytes_s <= 0:
        return None
    packed = packed_bytes(work, n_attn, n_ffn, coordinator=coordinator)
    resident = min(room - window, weights)
    return Residency(resident, packed - packed * resident // weights, window)


def stream_s(work: Workload, device: DeviceProfile, n_attn: int, n_ffn: int, *, coordinator: bool) -> float:
    """What the device's disk takes for a pass; NEVER_S where the share does not fit its budget."""
    residency = residency_of(work, device, n_attn, n_ffn, device.budget_bytes, coordinator=coordinator)
    if residency is None:
        return NEVER_S
    return residency.streamed_bytes / device.disk_bytes_s if residency.streamed_bytes else 0.0


def attn_unit_s(work: Workload, device: DeviceProfile) -> float:
    """One KV group in all layers."""
    return attn_weight_bytes(work, device.backend) / _read_bytes_s(device)


def ffn_unit_s(work: Workload, device: DeviceProfile) -> float:
    """One slice of the FFN in all layers."""
    return ffn_weight_bytes(work, device.backend) / _read_bytes_s(device)


def head_s(work: Workload, coordinator: DeviceProfile) -> float:
    return head_bytes(work, coordinator.backend) / _read_bytes_s(coordinator)


def _read_bytes_s(device: DeviceProfile) -> float:
    return max(device.read_bytes_s, 1.0)  # a peer may claim a speed of zero

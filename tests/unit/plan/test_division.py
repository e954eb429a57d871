"""`divide` against every division there is, and what must hold for any."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpid.device import DeviceProfile
from tpid.pack.geometry import Share
from tpid.plan.cost import NEVER_S, stream_s
from tpid.plan.division import Division, apportion, divide, fits
from tpid.plan.footprint import (
    Workload,
    attn_weight_bytes,
    ffn_weight_bytes,
    fixed_bytes,
    head_bytes,
    least_bytes,
    weights_bytes,
)

Devices = Callable[..., DeviceProfile]
Workloads = Callable[..., Workload]

NEARLY = 1 + 1e-6
BACKENDS = st.sampled_from(["native", "torch"])
SPEEDS = st.sampled_from([1e9, 3e9, 8e9, 2e10])
DISKS = st.sampled_from([0.0, 1e8, 5e8, 3e9, 1e11])


def make_work(draw: st.DataObject, workload: Workloads, n_attn: int, n_ffn: int) -> Workload:
    attn, ffn, head = (draw.draw(st.sampled_from([4096, 36864, 188416, 1 << 20])) for _ in range(3))
    head_units = draw.draw(st.integers(1, 20))
    return workload(
        n_attn_units=n_attn,
        n_ffn_units=n_ffn,
        attn_unit_weights=attn * 8 // 5,
        ffn_unit_weights=ffn * 8 // 5,
        attn_unit_packed_bytes=30 * attn,
        ffn_unit_packed_bytes=30 * ffn,
        attn_unit_largest_bytes=attn,
        ffn_unit_largest_bytes=ffn,
        head_packed_bytes=head_units * head,
        head_unit_packed_bytes=head,
        context_tokens=draw.draw(st.sampled_from([16, 512, 4096])),
        max_pass_tokens=16,
    )


def make_devices(draw: st.DataObject, device: Devices, work: Workload, n_devices: int) -> list[DeviceProfile]:
    """Budgets from just too small for anything to ample."""
    devices = []
    for rank in range(n_devices):
        backend = draw.draw(BACKENDS)
        least = fixed_bytes(work, backend, 0, 0, coordinator=rank == 0)
        whole = fixed_bytes(work, backend, work.n_attn_units, work.n_ffn_units, coordinator=rank == 0)
        whole += weights_bytes(work, backend, work.n_attn_units, work.n_ffn_units, coordinator=rank == 0)
        budget = least + int((whole - least) * draw.draw(st.floats(-0.05, 1.1)))
        devices.append(
            device(
                rank,
                backend=backend,
                budget_bytes=budget,
                read_bytes_s=draw.draw(SPEEDS),
                disk_bytes_s=draw.draw(DISKS),
            )
        )
    return devices


def parts(n_units: int, n_devices: int) -> Iterator[tuple[int, ...]]:
    return (p for p in product(range(n_units + 1), repeat=n_devices) if sum(p) == n_units)


def tpot_s(work: Workload, devices: Sequence[DeviceProfile], attn: Sequence[int], ffn: Sequence[int]) -> float:
    """What the pass takes, from its definition."""
    streams = 0.0
    for rank, (one, a, f) in enumerate(zip(devices, attn, ffn, strict=True)):
        if rank == 0 or a or f:
            # A larger share that needs a smaller window counts as the smaller one.
            shares = [share for share in ((a, f), (a, 0), (0, f)) if rank == 0 or any(share)]
            streams = max([streams, *(stream_s(work, one, *share, coordinator=rank == 0) for share in shares)])
    attn_s = max(n * attn_weight_bytes(work, d.backend) / d.read_bytes_s for n, d in zip(attn, devices, strict=True))
    ffn_s = max(n * ffn_weight_bytes(work, d.backend) / d.read_bytes_s for n, d in zip(ffn, devices, strict=True))
    head_s = head_bytes(work, devices[0].backend) / devices[0].read_bytes_s
    return max(attn_s + ffn_s + head_s, streams)


def check_cover(shares: Sequence[Share], work: Workload) -> None:
    for ranges, n_units in (
        ([share.attn for share in shares], work.n_attn_units),
        ([share.ffn for share in shares], work.n_ffn_units),
    ):
        stop = 0
        for units in ranges:
            assert units.start == stop
            assert units.stop >= units.start
            stop = units.stop
        assert stop == n_units


def check_division(division: Division, work: Workload, devices: Sequence[DeviceProfile]) -> None:
    check_cover(division.shares, work)
    attn, ffn = [len(s.attn) for s in division.shares], [len(s.ffn) for s in division.shares]
    assert division.tpot_s == pytest.approx(tpot_s(work, devices, attn, ffn), rel=1e-9)
    for rank, (one, a, f) in enumerate(zip(devices, attn, ffn, strict=True)):
        if rank == 0 or a or f:
            assert one.budget_bytes >= least_bytes(work, one.backend, a, f, coordinator=rank == 0)


@settings(max_examples=300, deadline=None)
@given(st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 3)), st.data())
def test_no_division_is_faster(
    device: Devices, workload: Workloads, counts: tuple[int, int, int], data: st.DataObject
) -> None:
    n_attn, n_ffn, n_devices = counts
    work = make_work(data, workload, n_attn, n_ffn)
    devices = make_devices(data, device, work, n_devices)
    best = min(tpot_s(work, devices, attn, ffn) for attn in parts(n_attn, n_devices) for ffn in parts(n_ffn, n_devices))
    division = divide(work, devices)
    assert fits(work, devices) == (best < NEVER_S)
    if best == NEVER_S:
        assert division is None
        return
    assert division is not None
    check_division(division, work, devices)
    assert best / NEARLY <= division.tpot_s <= best * NEARLY


@settings(max_examples=200, deadline=None)
@given(st.tuples(st.integers(1, 12), st.integers(1, 50), st.integers(1, 6)), st.data())
def test_a_division_covers_every_unit_within_every_budget_and_more_memory_never_slows_it(
    device: Devices, workload: Workloads, counts: tuple[int, int, int], data: st.DataObject
) -> None:
    n_attn, n_ffn, n_devices = counts
    work = make_work(data, workload, n_attn, n_ffn)
    devices = make_devices(data, device, work, n_devices)
    division = divide(work, devices)
    assert fits(work, devices) == (division is not None)
    if division is None:
        return
    check_division(division, work, devices)
    more = [replace(d, budget_bytes=d.budget_bytes + data.draw(st.integers(0, 10**9))) for d in devices]
    richer = divide(work, more)
    assert richer is not None
    assert richer.tpot_s <= division.tpot_s * NEARLY


@settings(max_examples=200, deadline=None)
@given(st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 3)), st.data())
def test_nothing_streams_where_that_is_as_fast(
    device: Devices, workload: Workloads, counts: tuple[int, int, int], data: st.DataObject
) -> None:
    n_attn, n_ffn, n_devices = counts
    work = make_work(data, workload, n_attn, n_ffn)
    devices = make_devices(data, device, work, n_devices)
    division = divide(work, devices)
    silent = divide(work, [replace(one, disk_bytes_s=0.0) for one in devices])
    if division is not None and silent is not None and silent.tpot_s <= division.tpot_s:
        assert division.stream_s == 0


def test_halves_are_balanced_apart_where_compute_is_the_limit(device: Devices, workload: Workloads) -> None:
    """Ranks meet after each half: to give more of the FFN to a rank without a KV group would make all wait."""
    division = divide(workload(), [device(i) for i in range(6)])
    assert division is not None
    assert [len(share.attn) for share in division.shares] == [1, 1, 1, 0, 0, 0]
    assert [len(share.ffn) for share in division.shares] == [8] * 6


def test_ranks_without_a_kv_group_take_more_of_the_ffn_where_disks_are_the_limit(
    device: Devices, workload: Workloads
) -> None:
    """Disks read all the time, so there it is the sum of both halves that counts."""
    work = workload(attn_unit_packed_bytes=120 << 20, attn_unit_largest_bytes=4 << 20, context_tokens=16)
    work = replace(work, ffn_unit_packed_bytes=30 << 20, ffn_unit_largest_bytes=1 << 20, max_pass_tokens=16)
    budget = least_bytes(work, "native", 1, 20, coordinator=True)
    devices = [device(i, backend="native", disk_bytes_s=1e8, budget_bytes=budget) for i in range(6)]
    division = divide(work, devices)
    assert division is not None
    assert division.stream_s > division.compute_s
    ffn = [len(share.ffn) for share in division.shares]
    assert [len(share.attn) for share in division.shares].count(0) == 3
    assert max(len(s.ffn) for s in division.shares[1:] if len(s.attn)) < min(
        len(s.ffn) for s in division.shares[1:] if not len(s.attn)
    )
    assert sum(ffn) == 48


def test_a_fast_disk_takes_what_a_slow_one_cannot(device: Devices, workload: Workloads) -> None:
    work = replace(workload(), context_tokens=16, max_pass_tokens=16)
    tight = least_bytes(work, "native", 3, 48, coordinator=True)
    fast = device(0, backend="native", budget_bytes=tight, disk_bytes_s=4e8)
    tight = least_bytes(work, "native", 3, 48, coordinator=False)
    slow = device(1, backend="native", budget_bytes=tight, disk_bytes_s=1e8)
    division = divide(work, [fast, slow])
    assert division is not None
    one, two = division.shares
    assert len(one.ffn) > 2 * len(two.ffn)


def test_with_ample_memory_shares_follow_speed(device: Devices, workload: Workloads) -> None:
    division = divide(workload(n_attn_units=8), [device(0, read_bytes_s=1e10), device(1, read_bytes_s=3e10)])
    assert division is not None
    assert division.stream_s == 0
    assert [(len(s.attn), len(s.ffn)) for s in division.shares] == [(2, 12), (6, 36)]


@settings(max_examples=500, deadline=None)
@given(
    st.integers(0, 100_000),
    st.lists(
        st.tuples(
            st.one_of(st.just(0.0), st.floats(0, 1e100), st.floats(0, 1, allow_subnormal=True)),
            st.one_of(st.integers(0, 50), st.integers(0, 10**12)),
        ),
        max_size=15,
    ),
)
def test_apportion_hands_out_exactly_what_there_is(n_units: int, parts: list[tuple[float, int]]) -> None:
    weights, capacity = [weight for weight, _ in parts], [most for _, most in parts]
    result = apportion(n_units, weights, capacity)
    if sum(capacity) < n_units:
        assert result is None
    else:
        assert result is not None
        assert sum(result) == n_units
        assert all(0 <= part <= most for part, most in zip(result, capacity, strict=True))


@given(st.integers(0, 10_000), st.lists(st.floats(1, 1e6), min_size=1, max_size=12))
def test_apportion_is_proportional_to_within_one(n_units: int, weights: list[float]) -> None:
    result = apportion(n_units, weights, [n_units] * len(weights))
    assert result is not None
    for part, weight in zip(result, weights, strict=True):
        assert abs(part - n_units * weight / sum(weights)) < 1 + 1e-6


def test_apportion_prefers_the_earlier_of_equals() -> None:
    assert apportion(5, [1.0, 1.0, 1.0], [9, 9, 9]) == [2, 2, 1]
    assert apportion(3, [0.0, 0.0], [9, 9]) == [2, 1]
    assert apportion(10, [9.0, 1.0, 0.0], [4, 3, 9]) == [4, 3, 3]
    assert apportion(0, [], []) == []

"""The planner against every plan there is, on small cases; what must hold on any."""

import random
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpid.errors import MemoryPlanError
from tpid.memory.residency import Item, ResidencyPlan, Steady, least_bytes, plan_residency, simulate

MB = 1_000_000
WORST = 1.10  # of the best plan's time, over the sample; nearly all are equal to it


def plan_of(items: list[Item], resident: tuple[bool, ...], window: int) -> ResidencyPlan:
    streamed = [item for item, stays in zip(items, resident, strict=True) if not stays]
    unpacked = [item.unpacked_bytes for item in streamed]
    pairs = zip(unpacked, unpacked[1:] + unpacked[:1], strict=True)
    return ResidencyPlan(
        resident,
        window,
        max((a + b for a, b in pairs), default=0) if len(unpacked) > 1 else sum(unpacked),
        sum(item.held_bytes for item, stays in zip(items, resident, strict=True) if stays),
        sum(item.packed_bytes for item in streamed),
    )


def least_time_s(items: list[Item], budget: int, disk_bytes_s: float) -> float:
    """Over all sets of residents and all windows."""
    best = float("inf")
    for resident in product((False, True), repeat=len(items)):
        streamed = [item.packed_bytes for item, stays in zip(items, resident, strict=True) if not stays]
        room = budget - plan_of(items, resident, 0).memory_bytes
        for window in range(max(streamed, default=0), min(room, 3 * sum(streamed)) + 1):
            plan = plan_of(items, resident, window)
            if plan.streamed_bytes / disk_bytes_s < best:
                best = min(best, simulate(items, plan, disk_bytes_s, 8).pass_s)
    return best


def small_case(seed: int) -> tuple[list[Item], int, float]:
    """Blocks of two sizes and slices of a head, a budget that streams, and a disk."""
    rng = random.Random(seed)
    speed, disk_bytes_s = rng.choice([2, 4, 8, 20]), rng.choice([1, 2, 4, 8])
    sizes = [rng.randint(1, 4), rng.randint(3, 9)] * rng.randint(1, 3) + [rng.randint(1, 4)] * rng.randint(0, 2)
    items = [Item(size, size / speed) for size in sizes]
    return items, rng.randint(least_bytes(items), max(sum(sizes) - 1, least_bytes(items))), disk_bytes_s


def test_small_cases_against_all_plans() -> None:
    ratios = []
    for seed in range(120):
        items, budget, disk_bytes_s = small_case(seed)
        plan = plan_residency(items, budget, disk_bytes_s, (1.0,))
        assert plan.memory_bytes <= budget
        ratios.append(simulate(items, plan, disk_bytes_s, 8).pass_s / least_time_s(items, budget, disk_bytes_s))
    assert max(ratios) <= WORST
    assert sum(ratio > 1.001 for ratio in ratios) <= 0.03 * len(ratios)


def llama_3_8b(disk_bytes_s: float, memory_bytes_s: float = 8e9) -> tuple[list[Item], float]:
    sizes = [26 * MB, 110 * MB] * 32 + [5 * MB] * 65
    return [Item(size, size / memory_bytes_s) for size in sizes], disk_bytes_s


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("disk_bytes_s", [0.1e9, 0.5e9, 1.5e9, 3e9])
def test_a_real_shape_is_as_fast_as_its_disk_or_its_compute(fraction: float, disk_bytes_s: float) -> None:
    items, _ = llama_3_8b(disk_bytes_s)
    total = sum(item.packed_bytes for item in items)
    plan = plan_residency(items, int(fraction * total), disk_bytes_s, (1.0,))
    steady = simulate(items, plan, disk_bytes_s)
    compute_s = sum(item.compute_s for item in items)
    assert plan.memory_bytes <= fraction * total
    # Where the disk is nearly as fast as compute, a tenth of the model is no room for a window that hides both.
    worst = 1.04 if fraction > 0.1 or disk_bytes_s < 3e9 else 1.10
    assert steady.pass_s <= worst * max(compute_s, plan.streamed_bytes / disk_bytes_s)
    # Nothing can stream less than what is beyond the budget, and a window of the two largest.
    assert steady.pass_s <= worst * max(compute_s, ((1 - fraction) * total + 220 * MB) / disk_bytes_s)


@pytest.mark.parametrize("slowdown", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.8])
def test_a_plan_still_serves_where_compute_is_slower_than_was_measured(fraction: float, slowdown: float) -> None:
    items, disk_bytes_s = llama_3_8b(1.5e9)
    plan = plan_residency(items, int(fraction * sum(item.packed_bytes for item in items)), disk_bytes_s)
    slower = [Item(item.packed_bytes, item.compute_s * slowdown) for item in items]
    bound_s = max(sum(item.compute_s for item in slower), plan.streamed_bytes / disk_bytes_s)
    assert simulate(slower, plan, disk_bytes_s).pass_s <= 1.10 * bound_s


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from([0.0, 0.1, 1.0, 5.0]), st.integers(0, 40)), min_size=1, max_size=12
    ),
    st.integers(0, 200),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_never_over_budget(shapes: list[tuple[int, float, int]], budget: int, unpacks: bool) -> None:
    items = [Item(size, took_s, unpacked if unpacks and size else 0) for size, took_s, unpacked in shapes]
    if budget < least_bytes(items):
        with pytest.raises(MemoryPlanError, match="at least"):
            plan_residency(items, budget, 2.0)
        return
    plan = plan_residency(items, budget, 2.0)
    assert plan == plan_of(items, plan.resident, plan.window_bytes)
    assert plan.memory_bytes <= budget
    assert all(
        stays or item.packed_bytes <= plan.window_bytes for item, stays in zip(items, plan.resident, strict=True)
    )
    steady = simulate(items, plan, 2.0)
    assert steady.pass_s >= 0.999 * max(sum(item.compute_s for item in items), plan.streamed_bytes / 2.0)


def test_all_is_resident_where_it_fits() -> None:
    items = [Item(5, 1.0), Item(0, 1.0), Item(7, 2.0)]
    plan = plan_residency(items, 12, 1.0)
    assert (plan.resident, plan.window_bytes, plan.streamed_bytes) == ((True,) * 3, 0, 0)
    assert simulate(items, plan, 1.0) == Steady(4.0, 0.0, 4.0)


def test_one_item_at_a_time_computes_and_reads_in_turn() -> None:
    items = [Item(4, 1.0), Item(4, 1.0)]
    steady = simulate(items, plan_residency(items, 4, 2.0), 2.0)
    assert (steady.pass_s, steady.stall_s, steady.disk_idle_s) == pytest.approx((6.0, 4.0, 2.0))


def test_the_numbers_of_a_refusal() -> None:
    items = [Item(26 * MB, 0.1), Item(110 * MB, 0.1)] * 4
    assert least_bytes(items) == 110 * MB
    with pytest.raises(MemoryPlanError, match=r"^50\.0 MB are left .* takes 110 MB at least\.") as caught:
        plan_residency(items, 50 * MB, 1e9)
    assert caught.value.hint is not None


def test_what_is_unpacked_counts_beside_the_window() -> None:
    items = [Item(10, 1.0, 64), Item(30, 1.0, 192), Item(10, 1.0, 64), Item(30, 1.0, 192)]
    assert least_bytes(items) == 30 + 64 + 192
    plan = plan_residency(items, 300, 1.0)
    assert plan.unpack_bytes == 256
    assert plan.memory_bytes <= 300

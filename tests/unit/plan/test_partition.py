from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tpid.device import DeviceProfile
from tpid.errors import MemoryPlanError
from tpid.pack.geometry import Share
from tpid.pack.manifest import PackId
from tpid.plan.footprint import (
    BACKENDS,
    Workload,
    attn_unit_bytes,
    ffn_unit_bytes,
    fixed_bytes,
    share_bytes,
)
from tpid.plan.partition import PlanRequest, apportion, divide, make_plan
from tpid.plan.plan import Plan

Devices = Callable[..., DeviceProfile]
Workloads = Callable[..., Workload]

PACK = PackId("ab" * 32)


@st.composite
def sizes(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "n_attn_units": draw(st.integers(1, 40)),
        "n_ffn_units": draw(st.integers(1, 90)),
        "attn_unit_weights": draw(st.integers(1, 3_000_000)),
        "ffn_unit_weights": draw(st.integers(1, 3_000_000)),
        "context_tokens": draw(st.integers(1, 100_000)),
        "n_slots": draw(st.integers(1, 3)),
    }


speeds = st.lists(st.one_of(st.floats(1e8, 1e12), st.just(0.0), st.just(2.0**62)), min_size=1, max_size=12)


def budgets(draw: st.DataObject, work: Workload, n_devices: int) -> list[int]:
    """Some just enough, some too small, some ample."""
    whole = work.n_attn_units * attn_unit_bytes(work, "torch") + work.n_ffn_units * ffn_unit_bytes(work, "torch")
    room = st.one_of(st.integers(-whole // 20, 2 * whole // n_devices), st.integers(0, whole), st.just(10 * whole))
    fixed = [fixed_bytes(work, "torch", coordinator=rank == 0) for rank in range(n_devices)]
    return [max(bytes_ + draw.draw(room), 0) for bytes_ in fixed]


def make_request(work: Workload) -> PlanRequest:
    return PlanRequest(term=7, pack=PACK, model="smollm2", work=work, wire_dtype="fp32")


def check_cover(shares: list[Share], work: Workload) -> None:
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


@settings(max_examples=300, deadline=None)
@given(sizes(), speeds, st.data())
def test_a_plan_covers_every_unit_once_within_every_budget(
    device: Devices, workload: Workloads, size: dict[str, Any], speed: list[float], data: st.DataObject
) -> None:
    work = workload(**size)
    given_budgets = budgets(data, work, len(speed))
    devices = [
        device(i, read_bytes_s=s, budget_bytes=b)
        for i, (s, b) in enumerate(zip(speed, given_budgets, strict=True), start=1)
    ]
    plan = _plan_or_error(make_request(work), devices)
    if isinstance(plan, MemoryPlanError):
        assert devices[0].name in plan.message
        assert "GB" in plan.message
        assert plan.hint is not None
        return
    check_cover([rank.share for rank in plan.ranks], work)
    assert plan.ranks[0].device == devices[0].id
    by_id = {entry.id: entry for entry in devices}
    for number, rank in enumerate(plan.ranks):
        takes = share_bytes(work, "torch", rank.share, coordinator=number == 0)
        assert takes == rank.memory_bytes <= by_id[rank.device].budget_bytes
        assert number == 0 or len(rank.share.attn) or len(rank.share.ffn)
    assert [rank.device for rank in plan.ranks[1:]] == sorted(rank.device for rank in plan.ranks[1:])
    assert {rank.device for rank in plan.ranks} | {entry.device for entry in plan.left_out} == by_id.keys()
    assert len(plan.ranks) + len(plan.left_out) == len(devices)


def _plan_or_error(request: PlanRequest, devices: list[DeviceProfile]) -> Plan | MemoryPlanError:
    try:
        return make_plan(request, devices[0], devices[1:])
    except MemoryPlanError as error:
        return error


@settings(max_examples=300, deadline=None)
@given(st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 3)), st.data())
def test_what_fits_in_any_division_is_divided(
    device: Devices, workload: Workloads, counts: tuple[int, int, int], data: st.DataObject
) -> None:
    """Every division into whole units is tried: `divide` fails only where none fits."""
    n_attn, n_ffn, n_devices = counts
    weights = st.integers(1, 2_000_000)
    work = workload(
        n_attn_units=n_attn,
        n_ffn_units=n_ffn,
        attn_unit_weights=data.draw(weights),
        ffn_unit_weights=data.draw(weights),
    )
    attn, ffn = attn_unit_bytes(work, "torch"), ffn_unit_bytes(work, "torch")
    room = data.draw(st.lists(st.integers(0, n_attn * attn + n_ffn * ffn), min_size=n_devices, max_size=n_devices))
    devices = [
        device(
            i, budget_bytes=r + fixed_bytes(work, "torch", coordinator=i == 0), read_bytes_s=data.draw(st.floats(1, 9))
        )
        for i, r in enumerate(room)
    ]
    fits = any(
        sum(parts) == n_attn
        and all(n * attn <= r for n, r in zip(parts, room, strict=True))
        and sum((r - n * attn) // ffn for n, r in zip(parts, room, strict=True)) >= n_ffn
        for parts in product(range(n_attn + 1), repeat=n_devices)
    )
    if fits:
        shares = divide(work, devices)
        check_cover(shares, work)
        for i, (share, one) in enumerate(zip(shares, devices, strict=True)):
            assert share_bytes(work, "torch", share, coordinator=i == 0) <= one.budget_bytes
    else:
        with pytest.raises(MemoryPlanError, match="device-0"):
            divide(work, devices)


@settings(max_examples=300, deadline=None)
@given(sizes(), st.lists(st.floats(1e8, 1e12), min_size=1, max_size=12))
def test_with_ample_memory_shares_follow_speed_to_within_a_unit(
    device: Devices, workload: Workloads, size: dict[str, Any], speed: list[float]
) -> None:
    work = workload(**size)
    shares = divide(work, [device(i, read_bytes_s=s, budget_bytes=10**18) for i, s in enumerate(speed)])
    fractions = [s / sum(speed) for s in speed]
    dues = []
    for share, fraction in zip(shares, fractions, strict=True):
        assert abs(len(share.attn) - fraction * work.n_attn_units) < 1 + 1e-6
        dues.append(fraction * work.layer_weights - len(share.attn) * work.attn_unit_weights)
    # Where nobody's attention is more than its whole due, all work together is within one FFN unit of it.
    assume(min(dues) >= 0)
    for share, due in zip(shares, dues, strict=True):
        assert abs(len(share.ffn) - due / work.ffn_unit_weights) < 1 + 1e-6


def test_ranks_without_a_kv_group_take_more_of_the_ffn(device: Devices, workload: Workloads) -> None:
    work = workload()
    shares = divide(work, [device(i) for i in range(6)])
    check_cover(shares, work)
    assert [len(share.attn) for share in shares] == [1, 1, 1, 0, 0, 0]
    assert max(len(share.ffn) for share in shares[:3]) < min(len(share.ffn) for share in shares[3:])
    done = [len(s.attn) * work.attn_unit_weights + len(s.ffn) * work.ffn_unit_weights for s in shares]
    assert max(done) - min(done) <= work.ffn_unit_weights


def test_a_device_with_little_memory_takes_what_fits_and_the_others_the_rest(
    device: Devices, workload: Workloads
) -> None:
    work = workload(n_attn_units=8)
    small = fixed_bytes(work, "torch", coordinator=False) + attn_unit_bytes(work, "torch")
    shares = divide(work, [device(0), device(1, budget_bytes=small, read_bytes_s=1e11), device(2)])
    check_cover(shares, work)
    assert share_bytes(work, "torch", shares[1], coordinator=False) <= small
    assert len(shares[1].attn) + len(shares[1].ffn) > 0
    done = [len(s.attn) * work.attn_unit_weights + len(s.ffn) * work.ffn_unit_weights for s in shares]
    assert abs(done[0] - done[2]) <= work.ffn_unit_weights


def test_attention_gives_way_where_the_ffn_would_not_fit(device: Devices, workload: Workloads) -> None:
    """In proportion, the fast device takes both groups, and no room is left for whole FFN units anywhere."""
    work = workload(n_attn_units=2, n_ffn_units=2, attn_unit_weights=1_000_000, ffn_unit_weights=1_500_000)
    attn, ffn = attn_unit_bytes(work, "torch"), ffn_unit_bytes(work, "torch")
    room = [attn + ffn, attn + ffn]
    devices = [
        device(i, budget_bytes=r + fixed_bytes(work, "torch", coordinator=i == 0), read_bytes_s=speed)
        for i, (r, speed) in enumerate(zip(room, [1e11, 1e9], strict=True))
    ]
    shares = divide(work, devices)
    check_cover(shares, work)
    assert [len(share.attn) for share in shares] == [len(share.ffn) for share in shares] == [1, 1]


def test_a_coordinator_too_small_for_the_head_is_named(device: Devices, workload: Workloads) -> None:
    work = workload()
    with pytest.raises(
        MemoryPlanError, match=r"budget of device-1 is 0\.10 GB, but .* the coordinator takes 0\.\d+ GB"
    ):
        make_plan(make_request(work), device(1, budget_bytes=10**8), [device(2)])


def test_a_model_too_large_for_all_names_them_and_their_budgets(device: Devices, workload: Workloads) -> None:
    devices = [device(1, budget_bytes=600 * 10**6), device(2, budget_bytes=700 * 10**6)]
    with pytest.raises(MemoryPlanError) as caught:
        make_plan(make_request(workload(context_tokens=10**6)), devices[0], devices[1:])
    assert "needs about 47.30 GB" in caught.value.message
    assert "on these 2 devices" in caught.value.message
    assert "device-1 0.60 GB, device-2 0.70 GB" in caught.value.message
    assert "context_tokens" in str(caught.value.hint)


def test_devices_that_cannot_take_part_are_left_out_with_the_reason(device: Devices, workload: Workloads) -> None:
    others = [
        device(5, packs=("cd" * 32,)),
        device(4, backend="abacus"),
        device(3, budget_bytes=BACKENDS["torch"].base_bytes),
        device(2, read_bytes_s=0.0),
        device(6),
    ]
    plan = make_plan(make_request(workload()), device(9), others)
    assert [rank.name for rank in plan.ranks] == ["device-9", "device-6"]
    reasons = {entry.name: entry.reason for entry in plan.left_out}
    assert "does not have this model: import it there" in reasons["device-5"]
    assert "(smollm2)" in reasons["device-5"]
    assert reasons["device-4"] == "its backend abacus is unknown to the coordinator"
    assert "budget of 0.34 GB is below the 0.3" in reasons["device-3"]
    assert "too slow for a part" in reasons["device-2"]
    assert len(reasons) == 4
    assert (plan.term, plan.pack, plan.model, plan.wire_dtype) == (7, PACK, "smollm2", "fp32")
    assert (plan.context_tokens, plan.max_pass_tokens, plan.n_slots) == (4096, 128, 1)


def test_a_plan_does_not_depend_on_the_order_in_which_devices_came(device: Devices, workload: Workloads) -> None:
    others = [device(i, read_bytes_s=1e9 * i) for i in range(2, 7)]
    one, two = (make_plan(make_request(workload()), device(1), order) for order in (others, others[::-1]))
    assert one == two


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

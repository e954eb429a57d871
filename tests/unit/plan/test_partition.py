from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpid.device import DeviceProfile
from tpid.errors import MemoryPlanError
from tpid.pack.geometry import Half, Share
from tpid.pack.manifest import PackId
from tpid.plan.division import Division, divide, fits
from tpid.plan.footprint import BACKENDS, Workload, fixed_bytes, least_bytes, share_bytes, weights_bytes
from tpid.plan.partition import PASS_COST, PlanRequest, make_plan
from tpid.plan.plan import Plan

Devices = Callable[..., DeviceProfile]
Workloads = Callable[..., Workload]

PACK = PackId("ab" * 32)
SPEEDS = st.one_of(st.floats(1e8, 1e12), st.just(0.0), st.just(2.0**62))


@st.composite
def sizes(draw: st.DrawFn) -> dict[str, Any]:
    attn, ffn = draw(st.integers(1, 3_000_000)), draw(st.integers(1, 3_000_000))
    return {
        "n_attn_units": draw(st.integers(1, 12)),
        "n_ffn_units": draw(st.integers(1, 40)),
        "attn_unit_weights": attn,
        "ffn_unit_weights": ffn,
        "attn_unit_packed_bytes": 30 * attn,
        "ffn_unit_packed_bytes": 30 * ffn,
        "attn_unit_largest_bytes": attn,
        "ffn_unit_largest_bytes": ffn,
        "context_tokens": draw(st.integers(1, 100_000)),
        "n_slots": draw(st.integers(1, 3)),
        "max_pass_tokens": draw(st.integers(1, 5000)),
    }


@st.composite
def devices_for(draw: st.DrawFn, device: Devices, work: Workload) -> list[DeviceProfile]:
    """Some with just enough memory, some with too little, some ample."""
    devices = []
    for rank in range(draw(st.integers(1, 6))):
        backend = draw(st.sampled_from(["native", "torch"]))
        units = (work.n_attn_units, work.n_ffn_units)
        weights = weights_bytes(work, backend, *units, coordinator=rank == 0)
        fixed = fixed_bytes(replace(work, max_pass_tokens=64), backend, *units, coordinator=rank == 0)
        budget = fixed + int(weights * draw(st.floats(-0.1, 1.2)))
        devices.append(
            device(
                rank + 1,
                backend=backend,
                budget_bytes=max(budget, 0),
                read_bytes_s=draw(SPEEDS),
                disk_bytes_s=draw(st.sampled_from([0.0, 1e8, 3e9])),
            )
        )
    return devices


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


@settings(max_examples=150, deadline=None)
@given(sizes(), st.data())
def test_a_plan_covers_every_unit_once_within_every_budget(
    device: Devices, workload: Workloads, size: dict[str, Any], data: st.DataObject
) -> None:
    work = workload(**size)
    devices = data.draw(devices_for(device, work))
    plan = _plan_or_error(make_request(work), devices)
    if isinstance(plan, MemoryPlanError):
        assert devices[0].name in plan.message
        assert "missing on" in plan.message
        assert plan.hint is not None
        return
    check_cover([rank.share for rank in plan.ranks], work)
    assert plan.ranks[0].device == devices[0].id
    assert 1 <= plan.max_pass_tokens <= min(work.max_pass_tokens, work.context_tokens)
    assert plan.context_tokens == work.context_tokens
    planned = replace(work, max_pass_tokens=plan.max_pass_tokens, n_workers=len(plan.ranks) - 1)
    by_id = {entry.id: entry for entry in devices}
    for number, rank in enumerate(plan.ranks):
        one, units = by_id[rank.device], [len(rank.share.of(half)) for half in Half]
        least = least_bytes(planned, one.backend, *units, coordinator=number == 0)
        most = share_bytes(planned, one.backend, rank.share, coordinator=number == 0)
        assert least <= rank.memory_bytes <= one.budget_bytes
        assert rank.memory_bytes == one.budget_bytes or rank.memory_bytes >= most
        assert number == 0 or any(units)
    assert [rank.device for rank in plan.ranks[1:]] == sorted(rank.device for rank in plan.ranks[1:])
    assert {rank.device for rank in plan.ranks} | {entry.device for entry in plan.left_out} == by_id.keys()
    assert len(plan.ranks) + len(plan.left_out) == len(devices)


def _plan_or_error(request: PlanRequest, devices: list[DeviceProfile]) -> Plan | MemoryPlanError:
    try:
        return make_plan(request, devices[0], devices[1:])
    except MemoryPlanError as error:
        return error


@settings(max_examples=40, deadline=None)
@given(st.floats(0.1, 1.2), st.sampled_from([16, 512, 4096]), st.sampled_from([1e8, 1e9, 1e10]))
def test_passes_are_as_long_as_memory_allows(
    device: Devices, workload: Workloads, fraction: float, context: int, disk_bytes_s: float
) -> None:
    """A pass costs decode next to nothing, and a longer one would cost more or not fit."""
    work = workload(context_tokens=context, max_pass_tokens=2048)
    resident = weights_bytes(work, "native", 3, 48, coordinator=True)
    fixed = fixed_bytes(replace(work, max_pass_tokens=16), "native", 3, 48, coordinator=True)
    one = device(1, backend="native", budget_bytes=fixed + int(fraction * resident), disk_bytes_s=disk_bytes_s)
    plan = make_plan(make_request(work), one, [])

    def division(tokens: int) -> Division | None:
        return divide(replace(work, max_pass_tokens=tokens), [one])

    chosen, shortest = division(plan.max_pass_tokens), division(16)
    assert chosen is not None
    assert shortest is not None
    assert chosen.tpot_s <= PASS_COST * shortest.tpot_s
    longer = division(min(2 * plan.max_pass_tokens, context, 2048))
    if chosen.stream_s > 0 and plan.max_pass_tokens < min(context, 2048):
        assert longer is None or longer.tpot_s > PASS_COST * shortest.tpot_s
    if chosen.stream_s == 0 and plan.max_pass_tokens < min(context, 512):
        assert longer is None or longer.stream_s > 0


def test_with_everything_resident_512_tokens_are_enough(device: Devices, workload: Workloads) -> None:
    plan = make_plan(make_request(workload(max_pass_tokens=2048)), device(1), [])
    assert plan.max_pass_tokens == 512


def test_a_model_too_large_says_where_how_much_and_what_fits(device: Devices, workload: Workloads) -> None:
    """What the error advises is enough, and a little less is not."""
    work = workload(context_tokens=10**6)
    devices = [device(1, budget_bytes=600 * 10**6), device(2, budget_bytes=700 * 10**6)]
    with pytest.raises(MemoryPlanError) as caught:
        make_plan(make_request(work), devices[0], devices[1:])
    message, hint = caught.value.message, str(caught.value.hint)
    assert message.startswith("smollm2 with 1000000 tokens of context does not fit")
    assert "GB are missing on device-1" in message
    assert "device-1 600 MB, device-2 700 MB" in message
    budget = int(hint.split('memory_budget = "')[1].split("M", maxsplit=1)[0]) * 10**6
    context = int(hint.split("context_tokens = ")[1].split(",", maxsplit=1)[0])
    assert make_plan(make_request(work), replace(devices[0], budget_bytes=budget), devices[1:]).context_tokens == 10**6
    assert not fits(
        replace(work, max_pass_tokens=16, n_workers=1),
        [replace(devices[0], budget_bytes=budget - 2 * 10**6), devices[1]],
    )
    assert make_plan(make_request(replace(work, context_tokens=context)), devices[0], devices[1:]) is not None
    with pytest.raises(MemoryPlanError):
        make_plan(make_request(replace(work, context_tokens=context + 16)), devices[0], devices[1:])


def test_a_coordinator_too_small_for_anything_is_told_what_it_needs(device: Devices, workload: Workloads) -> None:
    with pytest.raises(MemoryPlanError) as caught:
        make_plan(make_request(workload()), device(1, budget_bytes=10**8), [device(2)])
    assert "missing on device-1" in caught.value.message
    assert "context_tokens" not in str(caught.value.hint)


def test_a_device_that_cannot_read_its_disk_streams_nothing(device: Devices, workload: Workloads) -> None:
    work = workload(context_tokens=16)
    budget = fixed_bytes(replace(work, max_pass_tokens=16), "native", 3, 48, coordinator=True) + (30 << 20)
    one = device(1, backend="native", budget_bytes=budget)
    assert make_plan(make_request(work), one, []).ranks[0].memory_bytes == budget
    with pytest.raises(MemoryPlanError):
        make_plan(make_request(work), replace(one, disk_bytes_s=0.0), [])


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
    assert "budget of 336 MB is below the 35" in reasons["device-3"]
    assert "too slow for a part" in reasons["device-2"]
    assert len(reasons) == 4
    assert (plan.term, plan.pack, plan.model, plan.wire_dtype) == (7, PACK, "smollm2", "fp32")
    assert (plan.context_tokens, plan.max_pass_tokens, plan.n_slots) == (4096, 128, 1)


def test_a_plan_does_not_depend_on_the_order_in_which_devices_came(device: Devices, workload: Workloads) -> None:
    others = [device(i, read_bytes_s=1e9 * i) for i in range(2, 7)]
    one, two = (make_plan(make_request(workload()), device(1), order) for order in (others, others[::-1]))
    assert one == two


SIZES = st.sampled_from([0, 1, 1 << 20, 120 << 20, 1 << 33, 2**63 - 1]) | st.integers(0, 2**63 - 1)
RATES = st.sampled_from([0.0, 1.0, 1e18]) | st.floats(1.0, 1e18)


@given(data=st.data())
@settings(max_examples=150)
def test_any_profiles_that_the_border_lets_through_give_a_plan_or_say_what_is_missing(
    data: st.DataObject, device: Devices, workload: Workloads
) -> None:
    devices = [
        device(
            number,
            budget_bytes=data.draw(SIZES),
            ram_bytes=data.draw(SIZES),
            read_bytes_s=data.draw(RATES),
            disk_bytes_s=data.draw(RATES),
            matmul_flops_s=data.draw(RATES),
            backend=data.draw(st.sampled_from([*BACKENDS, "unknown"] if number > 1 else list(BACKENDS))),
        )
        for number in range(1, data.draw(st.integers(2, 9)))
    ]
    work = workload(**data.draw(sizes())) if data.draw(st.booleans()) else workload()
    try:
        plan = make_plan(PlanRequest(1, PACK, "model", work, "fp32"), devices[0], devices[1:])
    except MemoryPlanError:
        return
    for rank in plan.ranks:
        (of_rank,) = [device for device in devices if device.id == rank.device]
        assert 0 <= rank.memory_bytes <= of_rank.budget_bytes

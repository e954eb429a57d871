from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpid.device import DeviceProfile, LinkCost
from tpid.pack.manifest import PackId
from tpid.plan.cost import Residency, residency_of
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
from tpid.plan.network import NO_NETWORK, Network, pair_of
from tpid.plan.partition import PlanRequest, make_plan
from tpid.plan.plan import Plan
from tpid.plan.predict import Bottleneck, Forecast, Limit, forecast

Devices = Callable[..., DeviceProfile]
Workloads = Callable[..., Workload]


def plan_and_work(work: Workload, devices: list[DeviceProfile]) -> tuple[Plan, Workload]:
    plan = make_plan(PlanRequest(1, PackId("ab" * 32), "m", work, "fp32"), devices[0], devices[1:])
    return plan, replace(work, max_pass_tokens=plan.max_pass_tokens, n_workers=plan.world_size - 1)


def predict(
    work: Workload, devices: list[DeviceProfile], network: Network = NO_NETWORK, prompt_tokens: int = 2048
) -> Forecast:
    plan, planned = plan_and_work(work, devices)
    by_id = {one.id: one for one in devices}
    residencies = []
    for number, rank in enumerate(plan.ranks):
        units = len(rank.share.attn), len(rank.share.ffn)
        found = residency_of(planned, by_id[rank.device], *units, rank.memory_bytes, coordinator=number == 0)
        assert found is not None
        residencies.append(found)
    return forecast(planned, plan, by_id, residencies, network=network, prompt_tokens=prompt_tokens)


def native(device: Devices, number: int, **fields: Any) -> DeviceProfile:
    return device(number, backend="native", **fields)


def test_alone_and_resident_a_token_reads_all_weights_once(device: Devices, workload: Workloads) -> None:
    work = workload(max_pass_tokens=2048)
    found = predict(work, [native(device, 1)])
    weights = 3 * attn_weight_bytes(work, "native") + 48 * ffn_weight_bytes(work, "native")
    assert found.tpot_s == pytest.approx((weights + head_bytes(work, "native")) / 1e10)
    assert found.tpot_limit == Bottleneck(Limit.MEMORY, "device-1")
    (rank,) = found.ranks
    assert (rank.streamed_bytes, rank.window_bytes, rank.disk_s) == (0, 0, 0)
    assert rank.resident_bytes == weights + head_bytes(work, "native")
    assert found.walks == 4
    flops = 2 * 30 * work.layer_weights * 2048
    assert found.ttft_s == pytest.approx(flops / 1e11 + head_bytes(work, "native") / 1e10)
    assert found.ttft_limit == Bottleneck(Limit.COMPUTE, "device-1")


def test_what_streams_bounds_token_and_walk(device: Devices, workload: Workloads) -> None:
    work = workload(context_tokens=2048, max_pass_tokens=64)
    budget = fixed_bytes(work, "native", 3, 48, coordinator=True) + (20 << 20)
    found = predict(work, [native(device, 1, budget_bytes=budget, disk_bytes_s=1e8)], prompt_tokens=64)
    (rank,) = found.ranks
    assert rank.resident_bytes + rank.window_bytes <= 20 << 20
    assert rank.memory_bytes <= budget
    assert rank.streamed_bytes == packed_bytes(work, 3, 48, coordinator=True) - rank.resident_bytes
    assert found.tpot_s == rank.disk_s == rank.streamed_bytes / 1e8
    assert found.tpot_limit == Bottleneck(Limit.DISK, "device-1")
    assert found.walks == 1


def test_a_short_prompt_takes_a_walk(device: Devices, workload: Workloads) -> None:
    work = workload(context_tokens=2048, max_pass_tokens=64)
    budget = fixed_bytes(work, "native", 3, 48, coordinator=True) + (20 << 20)
    one = native(device, 1, budget_bytes=budget, disk_bytes_s=1e7)
    short = predict(work, [one], prompt_tokens=1)
    assert short.ttft_s == short.tpot_s == short.ranks[0].disk_s
    assert short.ttft_limit == Bottleneck(Limit.DISK, "device-1")
    assert predict(work, [one], prompt_tokens=64).ttft_s == short.ttft_s
    assert predict(work, [one], prompt_tokens=65).ttft_s == 2 * short.ttft_s


def test_ranks_wait_for_each_other_after_each_half(device: Devices, workload: Workloads) -> None:
    work = workload()
    found = predict(work, [native(device, i) for i in range(6)])
    half = attn_weight_bytes(work, "native") + 8 * ffn_weight_bytes(work, "native")
    assert found.tpot_s == pytest.approx((half + head_bytes(work, "native")) / 1e10)
    assert max(rank.compute_s for rank in found.ranks) <= found.tpot_s


def test_a_slow_link_is_named(device: Devices, workload: Workloads) -> None:
    """The memory of all three is needed."""
    work = workload(max_pass_tokens=16)
    budget = fixed_bytes(work, "native", 3, 48, coordinator=True)
    budget += int(0.5 * weights_bytes(work, "native", 3, 48, coordinator=True))
    devices = [native(device, i, budget_bytes=budget, disk_bytes_s=0.0) for i in range(3)]
    links = {pair_of(devices[0].id, one.id): LinkCost(rtt_s=0.001 * n) for n, one in enumerate(devices[1:], start=1)}
    near, far = predict(work, devices), predict(work, devices, Network(links))
    assert far.link_s in (pytest.approx(60 * 0.001), pytest.approx(60 * 0.002))
    assert far.tpot_s == pytest.approx(far.link_s + near.tpot_s, rel=0.1)
    assert far.tpot_limit == Bottleneck(Limit.LINK, None)


def test_without_a_measured_rate_prefill_is_as_slow_as_decode(device: Devices, workload: Workloads) -> None:
    known, unknown = (predict(workload(), [native(device, 1, matmul_flops_s=flops)]) for flops in (1e11, 0.0))
    layers_s = unknown.tpot_s - head_bytes(workload(), "native") / 1e10
    assert unknown.ttft_s == pytest.approx(2048 * layers_s, rel=0.01)
    assert known.ttft_s < unknown.ttft_s


@settings(deadline=None)
@given(st.floats(-0.1, 1.3), st.sampled_from(["native", "torch"]), st.booleans())
def test_residency_fills_the_memory_and_never_more(
    device: Devices, workload: Workloads, fraction: float, backend: str, coordinator: bool
) -> None:
    work, one = workload(), device(1, backend=backend)
    fixed = fixed_bytes(work, backend, 2, 20, coordinator=coordinator)
    weights = weights_bytes(work, backend, 2, 20, coordinator=coordinator)
    window = window_bytes(work, backend, 2, 20, coordinator=coordinator)
    memory = fixed + int(fraction * weights)
    found = residency_of(work, one, 2, 20, memory, coordinator=coordinator)
    if memory < fixed + min(window, weights):
        assert found is None
        return
    assert found is not None
    assert fixed + found.resident_bytes + found.window_bytes <= memory
    if memory >= fixed + weights:
        assert found == Residency(weights, 0, 0)
    else:
        assert fixed + found.resident_bytes + found.window_bytes == memory
        packed = packed_bytes(work, 2, 20, coordinator=coordinator)
        assert found.streamed_bytes == pytest.approx(packed * (1 - found.resident_bytes / weights), abs=2)

"""The devices of a plan against every subset and every division there is."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.plan.test_division import NEARLY, make_devices, make_work
from tpid.device import DeviceProfile, LinkCost
from tpid.pack.manifest import PackId
from tpid.plan.choice import choose_devices
from tpid.plan.division import divide, floor_s
from tpid.plan.footprint import Workload, fixed_bytes, weights_bytes
from tpid.plan.network import Network, pair_of, star_s
from tpid.plan.partition import PlanRequest, make_plan
from tpid.plan.plan import Plan

Devices = Callable[..., DeviceProfile]
Workloads = Callable[..., Workload]
LINKS = st.builds(
    LinkCost,
    rtt_s=st.sampled_from([0.0, 1e-5, 1e-4, 1e-3, 1e-2]),
    bytes_s=st.sampled_from([0.0, 1e6, 1e8]),
    message_s=st.sampled_from([0.0, 1e-5, 1e-3]),
)


def request(work: Workload, network: Network) -> PlanRequest:
    return PlanRequest(1, PackId("ab" * 32), "model", work, "fp32", network)


def star_of(devices: Sequence[DeviceProfile], links: Sequence[LinkCost]) -> Network:
    return Network({pair_of(devices[0].id, one.id): link for one, link in zip(devices[1:], links, strict=True)})


@settings(max_examples=80, deadline=None)
@given(st.data(), st.integers(1, 5))
def test_no_subset_is_faster(device: Devices, workload: Workloads, data: st.DataObject, n_devices: int) -> None:
    n_attn, n_ffn = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    work = replace(make_work(data, workload, n_attn, n_ffn), wire_row_bytes=2304)
    devices = make_devices(data, device, work, n_devices)
    wanted = request(work, star_of(devices, [data.draw(LINKS) for _ in devices[1:]]))
    times = []
    for size in range(n_devices):
        for some in combinations(devices[1:], size):
            chosen = devices[0], *some
            division = divide(work, chosen, link_s=wanted.link_s(chosen))
            if division is not None:
                times.append(division.tpot_s)
                assert floor_s(work, chosen, wanted.link_s(chosen)) <= division.tpot_s * NEARLY
    found = choose_devices(work, devices, wanted.link_s)
    if found is None:
        assert not times
    else:
        assert found.tpot_s <= min(times) * NEARLY


def test_of_many_devices_few_subsets_are_looked_at(device: Devices, workload: Workloads) -> None:
    """Those that are near are chosen among 30, half of them far."""
    devices = [device(number, backend="native") for number in range(31)]
    links = [LinkCost(rtt_s=1e-7 if number % 2 else 1.0) for number in range(30)]
    work = workload(n_attn_units=60, n_ffn_units=480)
    found = choose_devices(work, devices, request(work, star_of(devices, links)).link_s)
    assert found is not None
    assert found.devices == (devices[0], *(one for one, link in zip(devices[1:], links, strict=True) if link.rtt_s < 1))


def test_when_time_is_up_the_best_so_far_is_taken(device: Devices, workload: Workloads) -> None:
    devices = [device(number) for number in range(4)]
    found = choose_devices(workload(), devices, lambda chosen: float(len(chosen)), stop=lambda: True)
    assert found is not None


def plan_with(device: Devices, workload: Workloads, *, rtt_s: float, budget: float = 2.0, speed: float = 1e10) -> Plan:
    """Two devices, of which the first has room for `budget` times the model."""
    work = workload(max_pass_tokens=64)
    whole = fixed_bytes(work, "native", 3, 48, coordinator=True)
    whole += int(budget * weights_bytes(work, "native", 3, 48, coordinator=True))
    devices = [
        device(1, backend="native", budget_bytes=whole, disk_bytes_s=0.0),
        device(2, backend="native", read_bytes_s=speed),
    ]
    return make_plan(request(work, star_of(devices, [LinkCost(rtt_s=rtt_s)])), devices[0], devices[1:])


def test_a_helper_that_costs_more_than_it_gives_is_left_out_and_told_so(device: Devices, workload: Workloads) -> None:
    plan = plan_with(device, workload, rtt_s=0.0041)
    assert [rank.name for rank in plan.ranks] == ["device-1"]
    (entry,) = plan.left_out
    assert entry.name == "device-2"
    assert entry.reason.startswith("with it a token would take 130.6 ms instead of 8.8 ms")
    assert "a message there takes 2.05 ms, and a token needs 60 exchanges" in entry.reason


def test_a_helper_that_is_near_takes_part(device: Devices, workload: Workloads) -> None:
    plan = plan_with(device, workload, rtt_s=1e-6)
    assert len(plan.ranks) == 2
    assert not plan.left_out


def test_a_far_helper_takes_part_where_the_model_needs_its_memory(device: Devices, workload: Workloads) -> None:
    plan = plan_with(device, workload, rtt_s=0.02, budget=0.5)
    assert len(plan.ranks) == 2


def test_a_slow_helper_gets_little_or_nothing(device: Devices, workload: Workloads) -> None:
    plan = plan_with(device, workload, rtt_s=1e-7, speed=2.5e9)
    shares = [len(rank.share.ffn) for rank in plan.ranks]
    assert shares[0] >= 0.75 * sum(shares)


def test_an_exchange_takes_the_round_trip_the_wire_and_the_hands(device: Devices) -> None:
    ids = [device(number).id for number in range(4)]
    links = [LinkCost(rtt_s, 1e8, 2e-5) for rtt_s in (0.001, 0.004, 0.002)]
    network = Network({pair_of(ids[0], id): link for id, link in zip(ids[1:], links, strict=True)})
    assert star_s(network, ids[0], ids[1:2], 10_000) == 0.001 + 2 * 1e-4
    assert round(star_s(network, ids[0], ids[1:], 10_000), 9) == round(0.004 + 4 * 1e-4 + 2 * 2e-5, 9)
    assert star_s(network, ids[0], [], 10_000) == 0.0
    assert network.between(ids[2], ids[0]) == network.between(ids[0], ids[2])

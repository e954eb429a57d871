"""Many machines, a network that drops, delays, reorders and splits: safety always, liveness when it calms."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from tpid.cluster.lease import BumpTerm
from tpid.device import DeviceId, Role

CALM_S = 40.0  # more than ten times the time to live


def disturb(network: Any, rng: random.Random) -> None:  # noqa: PLR0912
    """One thing that people or networks do."""
    devices = sorted(network.machines)
    users = [d for d in devices if network.roles[d] is Role.USER]
    device = rng.choice(devices)
    machine = network.machines[device]
    match rng.randrange(9):
        case 0 | 1 if users:
            network.want(rng.choice(users))
        case 2 if users:
            network.want(rng.choice(users), False)
        case 3:
            for each in users:
                if network.machines[each]._wanted and network.machines[each].ready:
                    network.start(each)
        case 4:
            for each in users:
                if network.machines[each].busy and rng.random() < 0.5:
                    network.finish(each)
        case 5 if machine.holding:
            network.feed(device, BumpTerm())
        case 6:
            groups: list[list[DeviceId]] = [[], [], []]
            for each in devices:
                rng.choice(groups[: rng.choice((2, 3))]).append(each)
            network.split(*groups, noticed_within_s=rng.choice((0.0, 3.0)))
        case 7:
            network.connect_all()
        case 8 if rng.random() < 0.3:
            network.restart(device)


def calm(network: Any) -> None:
    network.drop = 0.0
    for device, machine in network.machines.items():
        network.want(device, False)
        if machine.busy:
            network.finish(device)
    for _ in range(8):  # connections that were being lost come back once both ends have noticed
        network.connect_all()
        network.run(CALM_S / 8)


def check_one_holder(network: Any) -> None:
    users = {d for d, role in network.roles.items() if role is Role.USER}
    if not users:
        assert network.holders() == set()
        return
    (holder,) = network.holders()
    assert holder in users
    assert {m.coordinator for m in network.machines.values()} == {holder}
    assert network.machines[holder].lease.devices == set(network.machines)
    assert network.machines[holder].ready


def populate(network: Any, rng: random.Random) -> None:
    for name in range(rng.randint(1, 6)):
        network.add(f"device{name}", rng.choice((Role.USER, Role.USER, Role.HELPER)))
    network.connect_all()


@pytest.mark.parametrize("first_seed", range(0, 150, 25))
@pytest.mark.parametrize("faults", ["loss of connections", "loss of single frames"])
def test_safe_always_and_live_when_calm(make_network: Callable[..., Any], first_seed: int, faults: str) -> None:
    for seed in range(first_seed, first_seed + 25):
        rng = random.Random(seed)
        network = make_network(seed=seed, delay_s=(0.001, rng.choice((0.01, 0.3, 1.0))))
        if faults == "loss of single frames":
            network.drop = rng.choice((0.0, 0.05, 0.4))
        populate(network, rng)
        for _ in range(60):
            disturb(network, rng)
            network.run(rng.choice((0.0, 0.01, 0.2, 1.0, 5.0)))
        network.delay_s = (0.001, 0.05)
        calm(network)
        check_one_holder(network)


@pytest.mark.parametrize("seed", range(20))
def test_every_waiting_prompt_gets_its_turn(make_network: Callable[..., Any], seed: int) -> None:
    rng = random.Random(seed)
    network = make_network(seed=seed)
    users = [network.add(f"user{i}") for i in range(4)]
    network.add("helper", Role.HELPER)
    network.connect_all()
    network.run(rng.uniform(0, 3))
    waiting = set(users)
    for user in users:
        network.want(user)
        network.run(rng.choice((0.0, 0.02, 1.0)))
    for _ in users:
        for _ in range(100):
            ready = [u for u in users if network.machines[u].ready and network.machines[u]._wanted]
            if ready:
                break
            network.run(0.05)
        (holder,) = ready
        assert holder in waiting
        network.start(holder)
        waiting.remove(holder)
        network.run(rng.uniform(0, 8))
        assert network.holders() == {holder}  # busy: nobody interrupts it
        network.finish(holder)
    assert not waiting


@pytest.mark.parametrize("seed", range(20))
def test_two_halves_elect_each_and_meet(make_network: Callable[..., Any], seed: int) -> None:
    rng = random.Random(seed)
    network = make_network(seed=seed)
    users = [network.add(f"user{i}") for i in range(4)]
    helpers = [network.add(f"helper{i}", Role.HELPER) for i in range(3)]
    network.connect_all()
    network.run(5.0)
    left, right = users[:2] + helpers[:1], users[2:] + helpers[1:2]
    network.split(left, right, helpers[2:], noticed_within_s=3.0)
    network.run(12.0)
    assert len(network.holders() & set(left)) == 1
    assert len(network.holders() & set(right)) == 1
    assert network.machines[helpers[2]].coordinator is None
    for holder in network.holders():
        for _ in range(rng.randrange(3)):
            network.feed(holder, BumpTerm())
    highest = max(network.machines[h].term for h in network.holders())
    first = min(h for h in network.holders() if network.machines[h].term == highest)
    network.connect_all()
    network.run(8.0)
    check_one_holder(network)
    assert network.holders() == {first}  # the higher term, then the lower id


def test_the_network_of_these_tests_really_disturbs(make_network: Callable[..., Any]) -> None:
    """The faults reach the machines: leases are lost, connections cut, terms grow."""
    lost = cut = 0
    for seed in range(10):
        rng = random.Random(seed)
        network = make_network(seed=seed, drop=0.3)
        populate(network, rng)
        for _ in range(60):
            disturb(network, rng)
            network.run(rng.choice((0.0, 0.2, 1.0)))
        lost += len(network.lost)
        cut += len(network.cut)
    assert lost > 10
    assert cut > 10

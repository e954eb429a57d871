"""Networks of homes as they are: two ways to a device, addresses that change, IPv6 alone, hiccups of the air."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from homelab.home import Home
from homelab.host import Host
from homelab.layout import parse_layout

PROMPT = "What is the capital of France? Tell me about it."
SMALL = {"memory_budget": "176M", "context_tokens": 512}  # too little for the model on one device

TWO_WAYS = """
[[hosts]]
name = "user"
role = "user"
links = [{subnet = 0}, {subnet = 1}]

[[hosts]]
name = "twin"
links = [{subnet = 0}, {subnet = 1}]

[[hosts]]
name = "second"
links = [{subnet = 1}]
"""
IPV6 = """
[[hosts]]
name = "user"
role = "user"
ipv4 = false
ipv6 = true

[[hosts]]
name = "helper"
ipv4 = false
ipv6 = true
"""


@contextmanager
def running(layout: str, models: Path, **settings: object) -> Iterator[Home]:
    with Home(parse_layout(layout)) as home:
        home.start_daemons(models, **settings)
        yield home


def wait_by(home: Home, at: Host, prefix: str, *others: Host) -> None:
    """Until `at` is connected with the others, and with these alone, by addresses of that network."""
    wanted = {other.name for other in others}

    def is_by(status: dict[str, Any]) -> bool:
        devices = [device for device in status["cluster"]["devices"] if not device["is_me"]]
        return {device["profile"]["name"] for device in devices} == wanted and all(
            device["address"].startswith(prefix) for device in devices
        )

    at.daemon.wait(f"connections by {prefix}", is_by)
    home.wait_whole(names={home.hosts[0].name, *(other.name for other in home.hosts if other in (*others, at))})


def test_two_networks_of_which_one_is_cut_while_idle_and_while_answering(permitted: None, models: Path) -> None:
    """One device is in the second network alone: only the second address of the others leads there."""
    with running(TWO_WAYS, models, **SMALL) as home:
        user, twin, second = home.hosts
        before = user.daemon.ask("smollm2-135m", PROMPT, 24)
        user.links[0].cut()
        wait_by(home, user, "10.77.1.", twin, second)
        user.links[0].heal()
        user.links[1].cut()
        wait_by(home, user, "10.77.0.", twin)
        user.links[1].heal()
        home.wait_whole()
        twin.links[0].cut()  # which of both ways is in use, chance has decided
        during = user.daemon.ask("smollm2-135m", PROMPT, 24)
        assert during.text == before.text


def test_an_address_that_changes_is_found_again(wired: Home, models: Path) -> None:
    wired.start_daemons(models)
    for host in (wired.hosts[1], wired.hosts[0]):  # whichever of both ids is the lower
        address, *_ = host.change_addresses()
        at = wired.hosts[2]
        at.daemon.wait("the new address", lambda status, address=address: _is_at(status, address))  # type: ignore[misc]
        wired.wait_whole()


def _is_at(status: dict[str, Any], address: str) -> bool:
    return any(device["address"].startswith(f"{address}:") for device in status["cluster"]["devices"])


def test_a_home_of_ipv6_alone(permitted: None, models: Path) -> None:
    with running(IPV6, models, use_all_devices=True, **SMALL) as home:
        user, helper = home.hosts
        answer = user.daemon.ask("smollm2-135m", PROMPT, 24)
        assert "Paris" in answer.text
        assert {rank["name"] for rank in user.daemon.status()["plan"]["ranks"]} == {user.name, helper.name}


def test_a_hiccup_below_the_limit_costs_no_device(wired: Home, models: Path) -> None:
    wired.start_daemons(models)
    _, helper, _ = wired.hosts
    before = {host.name: len(host.daemon.log) for host in wired.hosts}  # of earlier daemons as well
    for _ in range(3):
        helper.link.cut()
        time.sleep(1.5)  # the hiccup itself
        helper.link.heal()
        time.sleep(1.5)
    assert "has been silent" not in "".join(host.daemon.log[before[host.name] :] for host in wired.hosts)
    wired.wait_whole()

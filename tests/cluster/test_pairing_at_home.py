"""What a person does with three devices out of the box: one code each, then they compute together."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from homelab.home import Home
from homelab.host import Host
from tpid.cluster.pairing.code import make_code

PROMPT = "What is the capital of France? Tell me about it."
# Too little for the model on one device; and no plan without all, however slow this machine makes them look.
SMALL = {"memory_budget": "176M", "context_tokens": 512, "use_all_devices": True}
USERS = """
[[hosts]]
name = "desk"
role = "user"
count = 3
"""


@pytest.fixture
def strangers(hosts_of: Callable[[str], Home]) -> Home:
    """Three hosts that have never run tpid. Nobody is a helper by its own configuration: what they are, the pairing
    says."""
    return hosts_of(USERS)


def tpictl(host: Host, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tpictl.main", *arguments],
        env=os.environ | {"TPID_SOCKET": str(host.daemon.socket_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@contextlib.contextmanager
def invitation(host: Host, *options: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Its code, and the process that shows it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tpictl.main", "invite", "--json", *options],
        env=os.environ | {"TPID_SOCKET": str(host.daemon.socket_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["code"], process
        finally:
            process.terminate()


def pair(inviter: Host, joiner: Host, *options: str) -> float:
    """One code, typed once; the seconds of it."""
    began_s = time.monotonic()
    with invitation(inviter) as (code, process):
        joined = tpictl(joiner, "join", code, *options)
        assert joined.returncode == 0, joined.stderr + joined.stdout + joiner.daemon.log
        assert process.wait(10) == 0
    return time.monotonic() - began_s


def start_strangers(home: Home, models: Path, **settings: object) -> None:
    for host in home.hosts:
        home.start_daemon(host, models, paired=False, **settings)
    for host in home.hosts:
        host.daemon.wait("its API", lambda _: True)


def ranks(host: Host) -> set[str]:
    return {rank["name"] for rank in host.daemon.status()["plan"]["ranks"]}


def test_three_strangers_become_a_home_and_answer_as_one(strangers: Home, models: Path) -> None:
    user, *others = strangers.hosts
    strangers.start_daemon(user, models, paired=False)
    user.daemon.wait("its API", lambda _: True)
    alone = user.daemon.ask("smollm2-135m", PROMPT, 24)
    user.daemon.stop()

    start_strangers(strangers, models, **SMALL)
    for other in others:
        assert pair(user, other) < 20
    strangers.wait_whole()
    together = user.daemon.ask("smollm2-135m", PROMPT, 24)
    assert "Paris" in alone.text
    assert together.text == alone.text
    assert ranks(user) == {host.name for host in strangers.hosts}
    listed = json.loads(tpictl(others[1], "devices", "--json").stdout)
    assert {(device["name"], device["role"]) for device in listed["devices"]} == {
        (user.name, "user"),
        (others[0].name, "helper"),
        (others[1].name, "helper"),
    }

    for host in strangers.hosts:  # the power fails
        host.daemon.kill()
    for host in strangers.hosts:
        strangers.start_daemon(host, models, paired=False, **SMALL)
    strangers.wait_whole()
    assert user.daemon.ask("smollm2-135m", PROMPT, 24).text == alone.text


def test_one_address_is_enough_where_multicast_does_not_get_through(strangers: Home, models: Path) -> None:
    user, first, second = strangers.hosts
    for host in strangers.hosts:
        host.link.block_mdns()
    start_strangers(strangers, models)
    pair(user, first, "--address", user.addresses[0])
    pair(user, second, "--address", f"{user.addresses[0]}:7474")
    strangers.wait_whole()
    # The two helpers know of each other from the user's device alone.
    second.daemon.wait("the other helper", lambda status: len(status["cluster"]["devices"]) == 3)


def test_a_device_that_is_removed_is_out_at_once_and_founds_a_home(strangers: Home, models: Path) -> None:
    user, first, second = strangers.hosts
    start_strangers(strangers, models)
    pair(user, first)
    pair(user, second)
    strangers.wait_whole()
    home = user.daemon.status()["cluster"]["cluster"]
    removed = tpictl(user, "devices", "remove", first.name)
    assert removed.returncode == 0, removed.stderr
    second.daemon.wait("two devices", lambda status: len(status["cluster"]["devices"]) == 2, timeout_s=5)
    first.daemon.wait("a home of its own", lambda status: status["cluster"]["cluster"] != home)
    assert [device["role"] for device in json.loads(tpictl(first, "devices", "--json").stdout)["devices"]] == ["user"]
    refused = tpictl(second, "devices", "remove", user.name)
    assert refused.returncode == 1
    assert "Only devices of the role user" in refused.stderr
    pair(user, first)  # with a new identity it may come back
    strangers.wait_whole()


def test_wrong_codes_are_told_on_both_screens_and_three_end_it(strangers: Home, models: Path) -> None:
    user, first, _ = strangers.hosts
    start_strangers(strangers, models)
    with invitation(user) as (code, process):
        wrong = [make_code(os.urandom) for _ in range(3)]
        assert code not in wrong
        ends = [tpictl(first, "join", other) for other in wrong]
        assert process.stdout is not None
        lines = [json.loads(line) for line in process.stdout]
        assert process.wait(10) == 1
    assert all(end.returncode == 1 for end in ends)
    assert [f"Tries left: {left}" in end.stderr for left, end in zip((2, 1), ends, strict=False)] == [True, True]
    assert "The invitation has ended" in ends[2].stderr
    assert [line["tried"]["tries_left"] for line in lines if "tried" in line] == [2, 1, 0]
    assert "3 wrong codes came" in lines[-1]["error"]["message"]
    late = tpictl(first, "join", code, "--address", user.addresses[0])
    assert late.returncode == 1
    assert "cannot be reached" in late.stderr  # nobody is invited any more, so it is closed to its network

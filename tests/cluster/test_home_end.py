"""A home leaves nothing behind, however its owner ends."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from homelab.leftovers import NAMESPACES, new_tag, remove_leftovers
from homelab.limits import CGROUPS
from homelab.programs import run

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SOON_S = 20.0
# Stands in for whoever builds a home: says its tag and waits; a process sleeps on a host, as a daemon would.
OWNER = """
import subprocess, sys, time
from homelab.home import Home
from homelab.layout import parse_layout
limits = ", cores = 0.5" if sys.argv[1] == "limits" else ""
with Home(parse_layout(f"hosts = [{{ count = 2{limits} }}]")) as home:
    sleeper = home.hosts[0].popen("sh", "-c", "echo asleep; exec sleep 1000", stdout=subprocess.PIPE)
    sleeper.stdout.readline()
    print(home.directory.name, flush=True)
    time.sleep(1000)
"""

pytestmark = pytest.mark.usefixtures("permitted")


@contextlib.contextmanager
def owner() -> Iterator[tuple["subprocess.Popen[str]", str]]:
    limits = "limits" if (CGROUPS / "cpu" / "cgroup.procs").exists() else "none"
    command = [sys.executable, "-c", OWNER, limits]
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def traces(tag: str) -> list[str]:
    """All that carries the tag: namespaces, groups, directories, mounts, processes."""
    places = [NAMESPACES, Path(tempfile.gettempdir()), *CGROUPS.glob("*/")]
    paths = [str(path) for place in places for path in place.glob(f"{tag}*")]
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if f"/{tag}/" in line]
    return paths + mounts + processes(tag)


def processes(tag: str) -> list[str]:
    """Those that were started with the tag in their command; and the sleeper, whose namespace has it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if tag.encode() in path.read_bytes():
                found.append(str(path))
    for namespace in NAMESPACES.glob(f"{tag}*"):
        found += run("ip", "netns", "pids", namespace.name, check=False).split()
    return found


def wait_until_none(tag: str) -> None:
    deadline_s = time.monotonic() + SOON_S
    while found := processes(tag):
        assert time.monotonic() < deadline_s, found
        time.sleep(0.02)


def test_ctrl_c_takes_everything_down() -> None:
    with owner() as (process, tag):
        assert len(traces(tag)) > 4
        process.send_signal(signal.SIGINT)
        process.wait(SOON_S)
        assert traces(tag) == []


def test_what_a_killed_owner_leaves_goes_at_the_next_start() -> None:
    with owner() as (process, tag):
        assert remove_leftovers() == []  # it lives
        process.kill()
        process.wait(SOON_S)
        wait_until_none(tag)  # the kernel ends them with their parent
        assert traces(tag) != []
        assert tag in remove_leftovers()
        assert traces(tag) == []


def test_a_home_that_cannot_be_built_leaves_nothing() -> None:
    program = """
from homelab.home import Home
from homelab.layout import parse_layout
from homelab.switch import Switch
home = Home(parse_layout("hosts = [{}]"))
print(home.directory.name, flush=True)
Switch.tell = None  # it breaks when all but the links is there
with home:
    pass
"""
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False, timeout=SOON_S
    )
    assert "TypeError" in done.stderr
    assert traces(done.stdout.strip()) == []


def test_tags_tell_their_owner_and_are_never_used_twice() -> None:
    first, second = new_tag(), new_tag()
    assert first != second
    assert re.fullmatch(rf"tpid-lab-{os.getpid()}-\d+-\d+", first)

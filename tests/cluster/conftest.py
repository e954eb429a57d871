"""Homes of hosts. Where they cannot be built, what needs them is skipped, and says why."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from homelab.home import Home
from homelab.layout import parse_layout
from homelab.permitted import why_not
from tpid.pack.reader import Pack

THREE = """
[[hosts]]
name = "user"
role = "user"

[[hosts]]
name = "helper"
count = 2
"""


@pytest.fixture(scope="session")
def permitted() -> None:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def models(smollm2: Pack) -> Path:
    return smollm2.directory.parent


@pytest.fixture(scope="module")
def build(permitted: None) -> Iterator[Callable[[str], Home]]:
    """`build(layout)`: that home, built once for the module's tests."""
    with ExitStack() as stack:
        yield cache(lambda layout: stack.enter_context(Home(parse_layout(layout))))


@pytest.fixture
def hosts_of(build: Callable[[str], Home]) -> Iterator[Callable[[str], Home]]:
    """`hosts_of(layout)`: its hosts without daemons; after the test its links are whole and its hosts as new."""
    lent: list[Home] = []

    def lend(layout: str) -> Home:
        lent.append(build(layout))
        return lent[-1]

    yield lend
    for home in lent:
        home.heal()
        for host in home.hosts:
            host.daemon.kill()
            host.wipe()


@pytest.fixture
def wired(hosts_of: Callable[[str], Home]) -> Home:
    """Three hosts on a quick wire, a user's and two helpers."""
    return hosts_of(THREE)

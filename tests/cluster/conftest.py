"""Homes of hosts. Where they cannot be built, what needs them is skipped, and says why."""

from collections.abc import Iterator

import pytest

from homelab.home import Home
from homelab.layout import parse_layout
from homelab.permitted import why_not

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


@pytest.fixture(scope="module")
def _three_hosts(permitted: None) -> Iterator[Home]:
    with Home(parse_layout(THREE)) as home:
        yield home


@pytest.fixture
def wired(_three_hosts: Home) -> Iterator[Home]:
    """Three hosts on a quick wire, without daemons; after each test its links are whole and its hosts as new."""
    yield _three_hosts
    _three_hosts.heal()
    for host in _three_hosts.hosts:
        host.daemon.kill()
        host.wipe()

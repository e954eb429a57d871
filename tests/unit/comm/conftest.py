"""Devices to speak as."""

from collections.abc import Callable

import pytest

from tpid.comm.messages import Hello
from tpid.device import DeviceId, DeviceProfile, Role


def _profile(number: int) -> DeviceProfile:
    return DeviceProfile(
        id=DeviceId(f"{number:064x}"),
        name=f"device-{number}",
        role=Role.HELPER if number % 2 else Role.USER,
        version="0.1",
        ram_bytes=16 * 2**30,
        budget_bytes=8 * 2**30,
        disk_free_bytes=100 * 2**30,
        threads=4,
        read_bytes_s=2.5e9,
        backend="native",
        packs=("a", "b"),
    )


@pytest.fixture(scope="session")
def profile_of() -> Callable[[int], DeviceProfile]:
    return _profile


@pytest.fixture(scope="session")
def hello_of() -> Callable[..., Hello]:
    def hello(number: int, cluster: str = "home") -> Hello:
        return Hello(cluster=cluster, profile=_profile(number))

    return hello

import pytest

from tpid.cluster.cluster import Cluster
from tpid.cluster.settings import ClusterSettings
from tpid.device import DeviceId, DeviceProfile, Role
from tpid.errors import ConfigError

PROFILE = DeviceProfile(
    id=DeviceId("a" * 64),
    name="laptop",
    role=Role.USER,
    version="0.1.0",
    ram_bytes=1,
    budget_bytes=1,
    disk_free_bytes=1,
    threads=1,
    read_bytes_s=1.0,
    backend="torch",
)


@pytest.mark.parametrize("name", ["", "x" * 64, "a\nb", "\x1b[31m"])
def test_a_name_that_would_not_arrive_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="name of a cluster"):
        Cluster(ClusterSettings(name=name), PROFILE)


def test_a_static_peer_that_is_no_address_is_refused() -> None:
    with pytest.raises(ConfigError, match="address of a device"):
        Cluster(ClusterSettings(name="home", static_peers=("nowhere",)), PROFILE)


def test_before_it_is_up_it_has_a_status() -> None:
    status = Cluster(ClusterSettings(name="home", mdns=False), PROFILE).status()
    assert [device.profile for device in status.devices] == [PROFILE]
    assert (status.coordinator, status.term, status.busy, status.discovery) == (None, 0, False, "disabled")

import ipaddress

import pytest

from tpid.cluster.discovery import LOOPBACK, Site
from tpid.cluster.interfaces import Interface
from tpid.cluster.network import Network, NetworkSettings

LO = Interface("lo", True, True, (ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")))
ETH = Interface(
    "eth0",
    True,
    False,
    tuple(map(ipaddress.ip_address, ("192.168.1.7", "fd00::7", "fe80::7%eth0"))),
)
WLAN = Interface("wlan0", True, False, (ipaddress.ip_address("192.168.1.8"),))
DOCKER = Interface("docker0", True, False, (ipaddress.ip_address("172.17.0.1"),))
OPEN = NetworkSettings(stays_on_loopback=False)


def network(settings: NetworkSettings = OPEN) -> Network:
    return Network(settings, lambda: (LO, ETH, WLAN, DOCKER))


def test_a_device_alone_listens_on_loopback() -> None:
    assert network().hosts(is_open=False) == LOOPBACK


def test_a_home_of_two_listens_on_the_private_network_and_not_on_bridges() -> None:
    hosts = network().hosts(is_open=True)
    assert hosts == (*LOOPBACK, "192.168.1.7", "fd00::7", "fe80::7%eth0", "192.168.1.8")


def test_the_owner_has_the_last_word() -> None:
    assert network(NetworkSettings(stays_on_loopback=True)).hosts(is_open=True) == LOOPBACK
    assert network(NetworkSettings(False, ("wlan*",))).hosts(is_open=True) == (*LOOPBACK, "192.168.1.8")
    assert network(NetworkSettings(False, ("docker0",))).hosts(is_open=True) == (*LOOPBACK, "172.17.0.1")


def test_each_interface_has_its_reason() -> None:
    reasons = {choice.name: choice.reason for choice in network().choices()}
    assert reasons.keys() == {"lo", "eth0", "wlan0", "docker0"}
    assert "containers" in reasons["docker0"]
    closed = network(NetworkSettings(stays_on_loopback=True)).choices()
    assert {choice.reason for choice in closed} == {'listen is "loopback"'}


def test_mdns_leaves_each_interface_once_a_version_and_tells_all_addresses() -> None:
    of_home = network()
    site = of_home.site(of_home.hosts(is_open=True), 7474)
    assert sorted(site.interfaces) == ["192.168.1.7", "192.168.1.8", "fe80::7%eth0"]
    assert site.addresses == ("192.168.1.7", "fd00::7", "fe80::7%eth0", "192.168.1.8")
    assert site.port == 7474


@pytest.mark.parametrize("hosts", [LOOPBACK, ()])
def test_loopback_is_announced_only_where_there_is_nothing_else(hosts: tuple[str, ...]) -> None:
    assert network().site(hosts, 1) == Site(LOOPBACK, LOOPBACK, 1)

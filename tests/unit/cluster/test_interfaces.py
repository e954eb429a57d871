"""Where a home is, and where it is not."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpid.cluster.interfaces import Interface, choose, read_interfaces


def interface(name: str, *addresses: str, is_up: bool = True) -> Interface:
    return Interface(name, is_up, name == "lo", tuple(ipaddress.ip_address(address) for address in addresses))


@pytest.mark.parametrize(
    ("name", "addresses", "used", "word"),
    [
        ("eth0", ["192.168.1.7"], ["192.168.1.7"], "home"),
        ("wlp3s0", ["10.0.0.9", "fe80::1%wlp3s0"], ["10.0.0.9", "fe80::1%wlp3s0"], "home"),
        ("eth0", ["172.20.1.1", "2001:db9::5"], ["172.20.1.1"], "home"),  # one that is routed stays closed
        ("eth0", ["fd12:3456::9"], ["fd12:3456::9"], "home"),
        ("enx1", ["169.254.3.4"], ["169.254.3.4"], "home"),  # a cable between two laptops
        ("br0", ["192.168.1.8"], ["192.168.1.8"], "home"),
        ("eth0", ["8.8.8.8"], [], "private"),
        ("eth0", [], [], "no address"),
        ("lo", ["127.0.0.1", "::1"], [], "this machine"),
        ("docker0", ["172.17.0.1"], [], "containers"),
        ("br-0123456789ab", ["172.18.0.1"], [], "containers"),
        ("veth12ab", ["fe80::2%veth12ab"], [], "containers"),
        ("virbr0", ["192.168.122.1"], [], "containers"),
        ("wg0", ["10.8.0.2"], [], "VPN"),
        ("tailscale0", ["100.101.102.103"], [], "VPN"),
        ("mesh0", ["100.64.0.9"], [], "VPN"),
        ("tun0", ["10.9.0.2"], [], "VPN"),
    ],
)
def test_each_interface_has_its_reason(name: str, addresses: list[str], used: list[str], word: str) -> None:
    (choice,) = choose([interface(name, *addresses)])
    assert [str(address) for address in choice.addresses] == used
    assert word in choice.reason


def test_one_that_is_down_is_not_used() -> None:
    (choice,) = choose([interface("eth0", "192.168.1.7", is_up=False)])
    assert choice.addresses == ()
    assert "down" in choice.reason


def test_globs_narrow_and_name_what_would_be_left_out() -> None:
    there = [interface("eth0", "192.168.1.7"), interface("eth1", "192.168.2.7"), interface("wg0", "10.8.0.2")]
    choices = choose(there, ["eth1", "wg*"])
    assert [bool(choice.addresses) for choice in choices] == [False, True, True]
    assert "eth1, wg*" in choices[0].reason


@given(st.lists(st.ip_addresses(), max_size=5), st.text(min_size=1, max_size=15), st.booleans())
def test_without_a_word_of_the_owner_nothing_routed_is_used(
    addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address], name: str, is_up: bool
) -> None:
    (choice,) = choose([Interface(name, is_up, False, tuple(addresses))])
    assert not any(address.is_global or address.is_loopback for address in choice.addresses)
    assert choice.reason


def test_the_loopback_of_this_machine_is_found() -> None:
    assert any(found.is_loopback and found.addresses for found in read_interfaces())

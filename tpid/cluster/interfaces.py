"""Which network interfaces tpid listens on and announces itself on, and the reason for each.

A home's devices share a private network. Bridges of containers and virtual machines lead to no device of a home, and a
VPN leads out of it: they are left out unless the configuration names them. So are addresses that the internet can
route: what they reach is decided elsewhere.
"""

import fnmatch
import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import psutil

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

# By name, because the kernel tells no other difference: a bridge of containers is like one that joins a home's cables.
_CONTAINERS: Final = re.compile(
    r"docker\d|br-[0-9a-f]{12}$|veth|virbr|lxcbr|lxdbr|incusbr|cni|flannel|cali|podman|kube"
)
_VPNS: Final = re.compile(r"tun\d|utun|wg|tailscale|ppp|zt|nordlynx|proton|ipsec|cscotun")
_CARRIER_NAT: Final = ipaddress.ip_network("100.64.0.0/10")  # RFC 6598; as a home address it is a VPN's


@dataclass(frozen=True, slots=True)
class Interface:
    """As the system tells it."""

    name: str
    is_up: bool
    is_loopback: bool
    addresses: tuple[IpAddress, ...]  # an IPv6 link-local address has its scope


@dataclass(frozen=True, slots=True)
class Choice:
    """What becomes of an interface; without addresses it is not used."""

    name: str
    addresses: tuple[IpAddress, ...]
    reason: str


def read_interfaces() -> tuple[Interface, ...]:
    """All that are there now."""
    stats = psutil.net_if_stats()
    found = []
    for name, entries in psutil.net_if_addrs().items():
        texts = [entry.address for entry in entries if entry.family in (socket.AF_INET, socket.AF_INET6)]
        addresses = tuple(ipaddress.ip_address(_scoped(text, name)) for text in texts)
        loopback = bool(addresses) and all(address.is_loopback for address in addresses)
        is_up = stats[name].isup if name in stats else False
        found.append(Interface(name, is_up, loopback or name == "lo", addresses))
    return tuple(found)


def choose(interfaces: Sequence[Interface], globs: Sequence[str] = ()) -> tuple[Choice, ...]:
    """One choice for each interface, in their order. Where there are `globs`, only names that match one are used, and
    these whatever kind they are."""
    return tuple(_choice(interface, globs) for interface in interfaces)


def _choice(interface: Interface, globs: Sequence[str]) -> Choice:
    reason = _why_not(interface, globs)
    if reason is None:
        usable = tuple(address for address in interface.addresses if _is_of_a_home(address) or _named(interface, globs))
        if usable:
            return Choice(interface.name, usable, "it is named in the configuration" if globs else "it is of the home")
        reason = "it has no address of a private network" if interface.addresses else "it has no address"
    return Choice(interface.name, (), reason)


def _why_not(interface: Interface, globs: Sequence[str]) -> str | None:
    if interface.is_loopback:
        return "it stays on this machine"
    if not interface.is_up:
        return "it is down"
    if globs:
        return None if _named(interface, globs) else f"none of the configured interfaces is like it: {', '.join(globs)}"
    if _CONTAINERS.match(interface.name):
        return "it leads to containers or virtual machines"
    if _VPNS.match(interface.name) or any(address in _CARRIER_NAT for address in interface.addresses):
        return "it is a VPN and leads out of the home"
    return None


def _named(interface: Interface, globs: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(interface.name, glob) for glob in globs)


def _is_of_a_home(address: IpAddress) -> bool:
    """RFC 1918 and 3927, RFC 4193 and link-local IPv6: no router of the internet carries them."""
    if address.is_loopback or address.is_multicast or address.is_unspecified:
        return False
    return address.is_link_local or (address.is_private and address not in _CARRIER_NAT)


def _scoped(text: str, name: str) -> str:
    """With the scope that a link-local address needs; the system leaves it out for some kinds of interface."""
    return f"{text}%{name}" if text.lower().startswith("fe80:") and "%" not in text else text

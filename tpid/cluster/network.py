"""Where this device listens and is announced: loopback, and the interfaces of the home when there is reason to.

what there is                                     what is used
------------------------------------------------  ------------------------------------------------
a home of this device alone, nobody invited       loopback
another member, an invitation, somebody to join   the private network too: see `interfaces.choose`
`listen = "loopback"`                             loopback, always
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tpid.cluster.discovery import LOOPBACK, Site
from tpid.cluster.interfaces import Choice, Interface, IpAddress, choose, read_interfaces

LOOK_S: Final = 1.0  # from one look at the interfaces to the next: DHCP, a cable, Wi-Fi change them at any time

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """What the owner allows. `globs` narrow the interfaces by name."""

    stays_on_loopback: bool = True
    globs: tuple[str, ...] = ()


class Network:
    """Looks at the interfaces, and says what is to be used of them."""

    def __init__(self, settings: NetworkSettings, read: Callable[[], Sequence[Interface]] = read_interfaces) -> None:
        self._settings = settings
        self._read = read
        self._told: tuple[Choice, ...] = ()

    def choices(self) -> tuple[Choice, ...]:
        """What becomes of each interface that is there now, and why."""
        choices = choose(self._read(), self._settings.globs)
        if self._settings.stays_on_loopback:
            return tuple(Choice(choice.name, (), 'listen is "loopback"') for choice in choices)
        return choices

    def hosts(self, *, is_open: bool) -> tuple[str, ...]:
        """The addresses to listen on, loopback first."""
        if not is_open or self._settings.stays_on_loopback:
            return LOOPBACK
        choices = self.choices()
        if choices != self._told:
            self._told = choices
            for choice in choices:
                used = ", ".join(map(str, choice.addresses)) or "not used"
                _logger.info("interface name=%s addresses=%r reason=%r", choice.name, used, choice.reason)
        return (*LOOPBACK, *(str(address) for choice in choices for address in choice.addresses))

    def site(self, hosts: Sequence[str], port: int) -> Site:
        """For mDNS, of what `hosts` gave: loopback only where there is nothing else, or others would look for us on
        themselves."""
        outside = tuple(host for host in hosts if host not in LOOPBACK)
        if not outside:
            return Site(port=port)
        from_each: list[str] = []
        for choice in self._told:
            listened = [address for address in choice.addresses if str(address) in outside]
            from_each += [str(address) for address in _one_a_version(listened)]
        return Site(tuple(from_each) or outside, outside, port)


def _one_a_version(addresses: Sequence[IpAddress]) -> list[IpAddress]:
    """Multicast leaves an interface once for IPv4 and once for IPv6, there from the link-local address."""
    ordered = sorted(addresses, key=lambda address: (address.version == 6, not address.is_link_local))
    return list({address.version: address for address in reversed(ordered)}.values())

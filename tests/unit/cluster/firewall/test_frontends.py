"""What ufw 0.36 and firewalld 1.3 print."""

import pytest

from tpid.cluster.firewall.frontends import firewalld_passes, ufw_passes
from tpid.cluster.firewall.look import MDNS
from tpid.cluster.firewall.walk import Packet, Passes

TCP = Packet("tcp", 7474)
UFW = """Status: active
Logging: on (low)
Default: deny (incoming), allow (outgoing), disabled (routed)
New profiles: skip

To                         Action      From
--                         ------      ----
22/tcp (OpenSSH)           ALLOW IN    Anywhere
80,443/tcp                 ALLOW IN    Anywhere
"""
ZONES = """block
  target: %%REJECT%%
  interfaces:
  services:
  ports:

public (active)
  target: default
  icmp-block-inversion: no
  interfaces: eth0
  sources:
  services: dhcpv6-client ssh
  ports: 8000-8100/tcp
  rich rules:

home (active)
  target: default
  interfaces: wlan0
  services: mdns ssh
  ports: 7474/tcp 7474/udp

trusted
  target: ACCEPT
  interfaces: docker0
  services:
  ports:
"""


@pytest.mark.parametrize(
    ("text", "tcp", "mdns"),
    [
        ("Status: inactive\n", None, None),
        (UFW, Passes.NO, Passes.YES),
        (UFW + "7474/tcp                   ALLOW IN    Anywhere\n", Passes.YES, Passes.YES),
        (UFW + "7474                       ALLOW IN    Anywhere\n", Passes.YES, Passes.YES),
        (UFW + "7000:8000/tcp              LIMIT IN    Anywhere\n", Passes.YES, Passes.YES),
        (UFW + "7474/udp                   ALLOW IN    Anywhere\n", Passes.NO, Passes.YES),
        (UFW + "7474/tcp (v6)              ALLOW IN    Anywhere (v6)\n", Passes.NO, Passes.YES),
        (UFW + "7474/tcp                   ALLOW IN    192.168.0.0/16\n", Passes.UNSURE, Passes.YES),
        (UFW + "7474/tcp on eth0           ALLOW IN    Anywhere\n", Passes.UNSURE, Passes.YES),
        (UFW + "Anywhere                   ALLOW IN    192.168.0.0/16\n", Passes.UNSURE, Passes.YES),
        (UFW + "5353/udp                   DENY IN     Anywhere\n", Passes.NO, Passes.NO),
        (UFW.replace("deny (incoming)", "allow (incoming)"), Passes.YES, Passes.YES),
    ],
)
def test_what_ufw_lets_in(text: str, tcp: Passes | None, mdns: Passes | None) -> None:
    assert ufw_passes(text, TCP) is tcp
    assert ufw_passes(text, MDNS) is mdns


@pytest.mark.parametrize(
    ("interfaces", "tcp", "mdns"),
    [
        (["eth0"], Passes.NO, Passes.NO),
        (["wlan0"], Passes.YES, Passes.YES),
        (["docker0"], Passes.YES, Passes.YES),
        (["eth0", "wlan0"], Passes.UNSURE, Passes.UNSURE),
        ([], Passes.UNSURE, Passes.UNSURE),  # by the zones that are active
    ],
)
def test_what_firewalld_lets_in(interfaces: list[str], tcp: Passes, mdns: Passes) -> None:
    assert firewalld_passes(ZONES, TCP, interfaces) is tcp
    assert firewalld_passes(ZONES, MDNS, interfaces) is mdns
    assert firewalld_passes(ZONES, Packet("tcp", 8050), ["eth0"]) is Passes.YES
    assert firewalld_passes("", TCP, interfaces) is None

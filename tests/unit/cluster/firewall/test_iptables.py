"""Rules as `iptables -S` lists them."""

import pytest

from tpid.cluster.firewall.iptables import iptables_passes
from tpid.cluster.firewall.look import MDNS
from tpid.cluster.firewall.walk import Packet, Passes

TCP = Packet("tcp", 7474)
OPEN, SHUT = "-P INPUT ACCEPT\n-P FORWARD ACCEPT\n", "-P INPUT DROP\n-N lan\n"


@pytest.mark.parametrize(
    ("text", "tcp", "mdns"),
    [
        (OPEN, None, None),
        (SHUT, Passes.NO, Passes.NO),
        (OPEN + "-A INPUT -p tcp -m tcp --dport 7474 -j DROP", Passes.NO, Passes.YES),
        (OPEN + "-A INPUT -p tcp -m tcp ! --dport 22 -j REJECT --reject-with tcp-reset", Passes.NO, Passes.YES),
        (
            SHUT + "-A INPUT -i lo -j ACCEPT\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n"
            '-A INPUT -p tcp -m multiport --dports 22,7000:7500 -m comment --comment "tpid\'s" -j ACCEPT',
            Passes.YES,
            Passes.NO,
        ),
        (SHUT + "-A INPUT -d 224.0.0.251/32 -p udp -m udp --dport 5353 -j ACCEPT", Passes.NO, Passes.YES),
        (SHUT + "-A INPUT -s 192.168.0.0/16 -j ACCEPT", Passes.UNSURE, Passes.UNSURE),
        (
            SHUT + "-A INPUT -j lan\n-A lan -p tcp -m state --state NEW -m tcp --dport 7474 -j ACCEPT",
            Passes.YES,
            Passes.NO,
        ),
        (SHUT + "-A INPUT -j LOG --log-prefix x\n-A INPUT ! -i eth9 -j ACCEPT", Passes.UNSURE, Passes.UNSURE),
        (SHUT + "-A INPUT -g lan\n-A INPUT -j ACCEPT", Passes.NO, Passes.NO),
    ],
)
def test_what_the_rules_let_in(text: str, tcp: Passes | None, mdns: Passes | None) -> None:
    assert iptables_passes(text, TCP) is tcp
    assert iptables_passes(text, MDNS) is mdns


@pytest.mark.parametrize("text", ["", "# Warning", '-A INPUT "', "-P INPUT DROP\n-A INPUT --dport x -j ACCEPT"])
def test_what_is_no_list_of_rules_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        iptables_passes(text, TCP)

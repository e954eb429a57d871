"""What the doctor says of firewalls, and the command of each that opens a port."""

from collections.abc import Iterator, Sequence
from typing import Final

from tpid.cluster.doctor import Finding, Level
from tpid.cluster.firewall.look import MDNS, Firewall
from tpid.cluster.firewall.walk import Passes

_SHOWN: Final = {
    "ufw": "sudo ufw status verbose",
    "firewalld": "sudo firewall-cmd --list-all",
    "nftables": "sudo nft list ruleset",
    "iptables": "sudo iptables -S",
}


def firewall_findings(firewalls: Sequence[Firewall], port: int, *, is_reached: bool) -> Iterator[Finding]:
    """`is_reached` is whether another device has just reached the port, whatever the rules look like."""
    if not firewalls:
        yield Finding(Level.OK, "no firewall of this machine is on, as far as tpid may look")
    for firewall in firewalls:
        if not firewall.readable:
            yield Finding(
                Level.OK if is_reached else Level.NOTE,
                f"{firewall.name} is on, and its rules are root's to read",
                "" if is_reached else f"it may keep TCP port {port} or UDP port {MDNS.port} closed",
                "" if is_reached else f"look for both: {_SHOWN[firewall.name]}",
            )
            continue
        tcp = Passes.YES if is_reached else firewall.tcp  # what has happened says more than the rules
        if tcp is Passes.YES and firewall.mdns is Passes.YES:
            yield Finding(Level.OK, f"{firewall.name} lets TCP port {port} and mDNS in")
        if tcp is not Passes.YES:
            yield _closed(firewall, tcp, ("tcp", port), "other devices cannot connect")
        if firewall.mdns is not Passes.YES:
            yield _closed(firewall, firewall.mdns, ("udp", MDNS.port), "this device finds no others")


def _closed(firewall: Firewall, passes: Passes, what: tuple[str, int], why: str) -> Finding:
    name, (protocol, port) = firewall.name, what
    shown = f"{protocol.upper()} port {port}{' (mDNS)' if port == MDNS.port else ''}"
    if passes is Passes.NO:
        return Finding(Level.FAULT, f"{name} keeps {shown} closed", why, _opening(firewall, protocol, port))
    return Finding(
        Level.NOTE,
        f"{name} lets {shown} in for some devices or interfaces only",
        f"for the others: {why}",
        f"look whether the home is among them: {_SHOWN[name]}",
    )


def _opening(firewall: Firewall, protocol: str, port: int) -> str:
    match firewall.name:
        case "ufw":
            return f"sudo ufw allow {port}/{protocol}"
        case "firewalld":
            return f"sudo firewall-cmd --permanent --add-port={port}/{protocol} && sudo firewall-cmd --reload"
        case "nftables":
            return f"sudo nft insert rule {firewall.chain} {protocol} dport {port} accept"
        case _:
            return f"sudo iptables -I INPUT -p {protocol} --dport {port} -j ACCEPT"

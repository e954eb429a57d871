"""What ufw and firewalld say: programs that write the rules of the kernel, and are spoken to instead of these."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from tpid.cluster.firewall.walk import Fits, Packet, Passes, Rule, Verdict, passes

_COLUMNS: Final = re.compile(r"\s{2,}")
_PORTS: Final = re.compile(r"(?:\S+ )?(\d[\d:,]*)(?:/(tcp|udp))?(?: on \S+)?(?: \(v6\))?")
_ACTION: Final = re.compile(r"(ALLOW|DENY|REJECT|LIMIT)(?: IN)?")


def ufw_passes(text: str, packet: Packet) -> Passes | None:
    """Of `ufw status verbose`; None where it is off. ufw lets mDNS in by itself, where no rule forbids it."""
    if re.search(r"^Status: active", text, re.MULTILINE) is None:
        return None
    accepts = re.search(r"^Default:\s*allow \(incoming\)", text, re.MULTILINE) is not None
    rules = list(_ufw_rules(text, packet))
    return passes({"in": rules}, "in", accepts=accepts or packet.group is not None)


def _ufw_rules(text: str, packet: Packet) -> Iterator[Rule]:
    for line in text.splitlines():
        columns = _COLUMNS.split(line.strip())
        if len(columns) < 3 or (action := _ACTION.fullmatch(columns[1])) is None or "(v6)" in columns[0]:
            continue
        to, source = columns[0], columns[2]
        ports = _PORTS.fullmatch(to)
        if ports is not None:
            if ports[2] not in (None, packet.protocol) or not _has_port(ports[1], packet.port, ":"):
                continue
        elif not to.startswith("Anywhere"):
            continue  # that of an application with ports of its own
        everybody = source.startswith("Anywhere") and " on " not in to
        yield Rule(
            Fits.YES if everybody else Fits.PERHAPS,
            Verdict.ACCEPT if action[1] in ("ALLOW", "LIMIT") else Verdict.DROP,
        )


def firewalld_passes(text: str, packet: Packet, interfaces: Collection[str]) -> Passes | None:
    """Of `firewall-cmd --list-all-zones`, by the zones of these interfaces; None where there is none."""
    zones = [zone for zone in _zones(text) if set(zone["interfaces"]) & set(interfaces)]
    zones = zones or [zone for zone in _zones(text) if "active" in zone]
    if not zones:
        return None
    answers = {_zone_lets(zone, packet) for zone in zones}
    if len(answers) > 1:
        return Passes.UNSURE
    return Passes.YES if answers.pop() else Passes.NO


def _zones(text: str) -> Iterator[Mapping[str, list[str]]]:
    zone: dict[str, list[str]] = {}
    for line in [*text.splitlines(), "end"]:
        if line and not line[0].isspace():
            if zone:
                yield zone
            zone = {"interfaces": [], "services": [], "ports": [], "target": []}
            if "active" in line:
                zone["active"] = []
        elif ":" in line:
            key, _, values = line.strip().partition(":")
            zone[key] = values.split()


def _zone_lets(zone: Mapping[str, list[str]], packet: Packet) -> bool:
    if zone["target"] == ["ACCEPT"] or (packet.group is not None and "mdns" in zone["services"]):
        return True
    for entry in zone["ports"]:
        ports, _, protocol = entry.partition("/")
        if protocol == packet.protocol and _has_port(ports, packet.port, "-"):
            return True
    return False


def _has_port(text: str, port: int, between: str) -> bool:
    """In a list of ports and ranges of ports."""
    for part in text.split(","):
        first, _, last = part.partition(between)
        if first.isdigit() and int(first) <= port <= (int(last) if last.isdigit() else int(first)):
            return True
    return False

"""What `nft -j list ruleset` says: whether a packet passes the chains that hook into what comes in."""

import ipaddress
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from tpid.cluster.firewall.walk import Fits, Packet, Passes, Rule, Verdict, both, passes

_HOOKS: Final = {"prerouting", "input"}
_FAMILIES: Final = {"ip", "inet"}
_VERDICTS: Final = {
    "accept": Verdict.ACCEPT,
    "drop": Verdict.DROP,
    "reject": Verdict.DROP,
    "return": Verdict.RETURN,
    "jump": Verdict.JUMP,
    "goto": Verdict.GOTO,
}
_NUMBERS: Final = {"tcp": 6, "udp": 17}
_SPARES: Final = {"limit", "xt", "quota", "fib", "lookup", "connlimit", "ct count"}  # not every packet


def nft_chains(text: str, packet: Packet, *, without_iptables: bool = False) -> dict[str, Passes]:
    """For each chain that filters what comes in, as nft names it (`inet filter input`), whether the packet passes it.
    `without_iptables` leaves out the table that iptables keeps there. Raises ValueError for what is no ruleset."""
    try:
        objects = json.loads(text)["nftables"]
        return dict(_answers(objects, packet, without_iptables=without_iptables))
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ValueError(f"not a ruleset of nftables: {error!r}") from error


def _answers(objects: Any, packet: Packet, *, without_iptables: bool) -> Iterator[tuple[str, Passes]]:
    bases: list[tuple[tuple[str, str], dict[str, Any]]] = []
    tables: dict[tuple[str, str], dict[str, list[Rule]]] = {}
    for entry in objects:
        if "chain" in entry:
            chain = entry["chain"]
            table = (chain["family"], chain["table"])
            if chain.get("hook") in _HOOKS and chain.get("type") == "filter" and chain["family"] in _FAMILIES:
                bases.append((table, chain))
        elif "rule" in entry:
            rule = entry["rule"]
            chains = tables.setdefault((rule["family"], rule["table"]), {})
            chains.setdefault(rule["chain"], []).extend(_rules(rule["expr"], packet))
    for table, chain in bases:
        if not (without_iptables and table == ("ip", "filter")):
            accepts = chain.get("policy", "accept") == "accept"
            answer = passes(tables.get(table, {}), str(chain["name"]), accepts=accepts)
            yield f"{table[0]} {table[1]} {chain['name']}", answer


def _rules(statements: Iterable[Mapping[str, Any]], packet: Packet) -> Iterator[Rule]:
    fits = Fits.YES
    for statement in statements:
        ((name, content),) = statement.items()
        if name == "match":
            fits = both(fits, _matches(content, packet))
        elif name == "vmap":
            yield from _mapped(content, fits, packet)
        elif name in _VERDICTS:
            yield Rule(fits, _VERDICTS[name], content["target"] if name in ("jump", "goto") else "")
        elif name in _SPARES:
            fits = both(fits, Fits.PERHAPS)
        elif name == "queue":
            yield Rule(both(fits, Fits.PERHAPS), Verdict.DROP)  # a program decides


def _mapped(content: Mapping[str, Any], fits: Fits, packet: Packet) -> Iterator[Rule]:
    data = content["data"]
    if not isinstance(data, dict):  # a named map
        yield Rule(both(fits, Fits.PERHAPS), Verdict.DROP)
        return
    for value, verdict in data["set"]:
        ((name, target),) = verdict.items()
        if name in _VERDICTS:
            yield Rule(
                both(fits, _is(content["key"], value, packet)),
                _VERDICTS[name],
                target["target"] if name in ("jump", "goto") else "",
            )


def _matches(content: Mapping[str, Any], packet: Packet) -> Fits:
    fits = _is(content["left"], content["right"], packet)
    if content["op"] != "!=":
        return fits
    match content["left"]:
        case {"payload": {"protocol": protocol}} if protocol not in ("ip", "th", packet.protocol):
            return Fits.NO  # a field that the packet has not
    return ~fits


def _is(left: Any, right: Any, packet: Packet) -> Fits:
    """Whether what `left` names has, in this packet, the value `right`, or one of several."""
    match left:
        case {"payload": {"protocol": protocol, "field": field}}:
            return _field_is(protocol, field, right, packet)
        case {"meta": {"key": "l4proto"}}:
            return _any_of(right, {packet.protocol, _NUMBERS[packet.protocol]})
        case {"meta": {"key": "nfproto"}}:
            return _any_of(right, {"ipv4", 2})
        case {"meta": {"key": "iif" | "iifname"}}:
            return Fits.NO if right == "lo" else Fits.PERHAPS
        case {"ct": {"key": "state"}}:
            return _any_of(right, {"new", 8})
    return Fits.PERHAPS


def _field_is(protocol: str, field: str, right: Any, packet: Packet) -> Fits:
    if protocol in ("th", packet.protocol):
        return _number_is(packet.port, right) if field == "dport" else Fits.PERHAPS
    if protocol != "ip":  # the other of tcp and udp, icmp, ip6, ether …
        return Fits.NO
    if field == "protocol":
        return _any_of(right, {packet.protocol, _NUMBERS[packet.protocol]})
    return _group_is(packet.group, right) if field == "daddr" else Fits.PERHAPS


def _any_of(right: Any, values: set[Any]) -> Fits:
    several = right.get("set", [right]) if isinstance(right, dict) else right if isinstance(right, list) else [right]
    if any(isinstance(value, str) and value.startswith("@") for value in several):
        return Fits.PERHAPS
    return Fits.YES if any(value in values for value in several if isinstance(value, str | int)) else Fits.NO


def _number_is(number: int, right: Any) -> Fits:
    match right:
        case int():
            return Fits.YES if right == number else Fits.NO
        case {"range": [int(first), int(last)]}:
            return Fits.YES if first <= number <= last else Fits.NO
        case {"set": list(several)}:
            return max((_number_is(number, one) for one in several), key=lambda fits: fits.value, default=Fits.NO)
    return Fits.PERHAPS


def _group_is(group: str | None, right: Any) -> Fits:
    """A packet that is for this machine has one of its addresses, of which nothing is known here."""
    match right:
        case str() if not right.startswith("@"):
            networks = [right]
        case {"prefix": {"addr": address, "len": length}}:
            networks = [f"{address}/{length}"]
        case _:
            return Fits.PERHAPS
    network = ipaddress.ip_network(networks[0], strict=False)
    if group is None:
        return Fits.NO if network.is_multicast else Fits.PERHAPS
    return Fits.YES if ipaddress.ip_address(group) in network else Fits.NO

"""Rulesets as nft 1.0.6 lists them."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpid.cluster.firewall.look import MDNS
from tpid.cluster.firewall.nft import nft_chains
from tpid.cluster.firewall.walk import Packet, Passes

TCP = Packet("tcp", 7474)
ACCEPT: dict[str, Any] = {"accept": None}


def match(left: dict[str, Any], right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def port(protocol: str, right: Any, op: str = "==") -> dict[str, Any]:
    return match({"payload": {"protocol": protocol, "field": "dport"}}, right, op)


def ruleset(*rules: list[dict[str, Any]], policy: str = "drop", **chains: list[list[dict[str, Any]]]) -> str:
    """One table with a base chain `input` of these rules, and more chains."""
    place = {"family": "inet", "table": "filter"}
    base = place | {"name": "input", "handle": 1, "type": "filter", "hook": "input", "prio": 0, "policy": policy}
    listed: list[dict[str, Any]] = [{"metainfo": {"version": "1.0.6", "json_schema_version": 1}}, {"chain": base}]
    for name, content in {"input": list(rules), **chains}.items():
        listed += [{"rule": place | {"chain": name, "handle": 2, "expr": rule}} for rule in content]
    return json.dumps({"nftables": listed})


STATES = {
    "vmap": {
        "key": {"ct": {"key": "state"}},
        "data": {"set": [["invalid", {"drop": None}], ["established", ACCEPT], ["related", ACCEPT]]},
    }
}
LO = match({"meta": {"key": "iif"}}, "lo")
ETH0 = match({"meta": {"key": "iifname"}}, "eth0")
LAN = match({"payload": {"protocol": "ip", "field": "saddr"}}, {"prefix": {"addr": "192.168.0.0", "len": 16}})
GROUP = match({"payload": {"protocol": "ip", "field": "daddr"}}, "224.0.0.251")
NEW = match({"ct": {"key": "state"}}, "new", "in")
COUNTER = {"counter": {"packets": 0, "bytes": 0}}
REJECT = {"reject": {"type": "icmpx", "expr": "port-unreachable"}}


@pytest.mark.parametrize(
    ("rules", "policy", "tcp", "mdns"),
    [
        ([], "accept", Passes.YES, Passes.YES),
        ([], "drop", Passes.NO, Passes.NO),
        ([[STATES], [LO, ACCEPT]], "drop", Passes.NO, Passes.NO),
        ([[STATES], [LO, ACCEPT], [port("tcp", 7474), NEW, COUNTER, ACCEPT]], "drop", Passes.YES, Passes.NO),
        ([[port("tcp", {"set": [22, {"range": [7000, 7500]}]}), ACCEPT]], "drop", Passes.YES, Passes.NO),
        ([[port("tcp", {"set": [22, {"range": [7000, 7473]}]}), ACCEPT]], "drop", Passes.NO, Passes.NO),
        ([[port("tcp", 7474), {"drop": None}]], "accept", Passes.NO, Passes.YES),
        ([[port("tcp", 9, "!="), REJECT]], "accept", Passes.NO, Passes.YES),
        ([[port("udp", 5353), {"log": {"prefix": "x"}}, ACCEPT]], "drop", Passes.NO, Passes.YES),
        ([[GROUP, port("udp", 5353), ACCEPT]], "drop", Passes.NO, Passes.YES),
        ([[port("th", 7474), ACCEPT]], "drop", Passes.YES, Passes.NO),
        ([[LAN, port("tcp", 7474), ACCEPT]], "drop", Passes.UNSURE, Passes.NO),
        ([[ETH0, {"jump": {"target": "lan"}}]], "drop", Passes.UNSURE, Passes.NO),
        ([[{"jump": {"target": "lan"}}]], "drop", Passes.YES, Passes.NO),
        ([[match({"meta": {"key": "l4proto"}}, "icmp"), ACCEPT]], "drop", Passes.NO, Passes.NO),
        ([[match({"meta": {"key": "l4proto"}}, {"set": [6, 17]}), ACCEPT]], "drop", Passes.YES, Passes.YES),
        (
            [[match({"payload": {"protocol": "ip6", "field": "saddr"}}, "fe80::1"), ACCEPT]],
            "drop",
            Passes.NO,
            Passes.NO,
        ),
        ([[port("tcp", "@open"), ACCEPT]], "drop", Passes.UNSURE, Passes.NO),
        ([[{"limit": {"rate": 1, "per": "second"}}, ACCEPT]], "drop", Passes.UNSURE, Passes.UNSURE),
        ([[{"xt": {"type": "match", "name": "tcp"}}, {"drop": None}]], "accept", Passes.UNSURE, Passes.UNSURE),
    ],
)
def test_what_a_ruleset_lets_in(rules: list[list[dict[str, Any]]], policy: str, tcp: Passes, mdns: Passes) -> None:
    text = ruleset(*rules, policy=policy, lan=[[port("tcp", 7474), ACCEPT], [{"return": None}]])
    assert nft_chains(text, TCP) == {"inet filter input": tcp}
    assert nft_chains(text, MDNS) == {"inet filter input": mdns}


def test_where_nothing_hooks_in_nothing_is_filtered() -> None:
    assert nft_chains('{"nftables": [{"metainfo": {"version": "1.0.6"}}]}', TCP) == {}


def test_the_table_of_iptables_is_left_to_it() -> None:
    base = {"family": "ip", "table": "filter", "name": "INPUT", "type": "filter", "hook": "input", "policy": "drop"}
    text = json.dumps({"nftables": [{"chain": base}]})
    assert nft_chains(text, TCP) == {"ip filter INPUT": Passes.NO}
    assert nft_chains(text, TCP, without_iptables=True) == {}


JSON = st.recursive(
    st.none() | st.integers() | st.sampled_from(["", "input", "drop", "lo", "@x", "224.0.0.251"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["match", "left", "right", "op", "payload", "protocol", "set", "vmap", "key", "data", "jump"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(st.lists(JSON, max_size=3))
def test_any_rule_gives_an_answer_or_one_error(expressions: list[Any]) -> None:
    text = ruleset(expressions)
    for packet in (TCP, MDNS):
        with contextlib.suppress(ValueError):
            assert set(nft_chains(text, packet)) == {"inet filter input"}

"""Which firewall is asked, what comes of an answer that only root gets, and what the doctor makes of it."""

import asyncio
from pathlib import Path

import pytest

from tpid.cluster.doctor import Level
from tpid.cluster.firewall.findings import firewall_findings
from tpid.cluster.firewall.look import Firewall, Output, look_at_firewalls, run_program
from tpid.cluster.firewall.walk import Passes

YES, NO, UNSURE = Passes.YES, Passes.NO, Passes.UNSURE
DENIED = Output("Operation not permitted (you must be root)", ok=False, refused=True)
NFT_DROP = Output(
    '{"nftables": [{"chain": {"family": "inet", "table": "t", "name": "c", "type": "filter", "hook": "input",'
    ' "policy": "drop"}}]}',
    ok=True,
)


def looked(outputs: dict[str, Output], ufw_conf: Path = Path("/nonexistent")) -> tuple[Firewall, ...]:
    """By what each command says, named by its first two words."""

    async def run(*words: str) -> Output | None:
        return outputs.get(" ".join(words[:2]))

    return asyncio.run(look_at_firewalls(7474, ["eth0"], run, ufw_conf))


def test_without_any_there_is_none() -> None:
    assert looked({}) == ()
    assert looked({"firewall-cmd --state": Output("not running", ok=False), "ufw status": DENIED}) == ()
    assert looked({"nft -j": Output("no JSON", ok=True), "iptables -S": Output("", ok=False)}) == ()


def test_the_program_that_people_set_is_the_one_that_is_told() -> None:
    active = Output("Status: active\nDefault: deny (incoming)\n", ok=True)
    assert looked({"ufw status": active, "nft -j": NFT_DROP}) == (Firewall("ufw", NO, YES),)
    inactive = Output("Status: inactive\n", ok=True)
    assert looked({"ufw status": inactive, "nft -j": NFT_DROP}) == (Firewall("nftables", NO, NO, chain="inet t c"),)
    zones = Output("public (active)\n  interfaces: eth0\n  services: mdns\n  ports:\n", ok=True)
    running = {"firewall-cmd --state": Output("running", ok=True)}
    assert looked(running | {"firewall-cmd --list-all-zones": zones}) == (Firewall("firewalld", NO, YES),)
    assert looked({"iptables -S": Output("-P INPUT DROP\n", ok=True)}) == (Firewall("iptables", NO, NO),)


def test_rules_that_only_root_may_read_are_said_to_be_so(tmp_path: Path) -> None:
    conf = tmp_path / "ufw.conf"
    conf.write_text("# ufw\nENABLED=yes\n")
    assert looked({"ufw status": DENIED}, conf) == (Firewall("ufw", UNSURE, UNSURE, readable=False),)
    assert looked({"firewall-cmd --state": Output("running", ok=True), "firewall-cmd --list-all-zones": DENIED}) == (
        Firewall("firewalld", UNSURE, UNSURE, readable=False),
    )
    assert looked({"nft -j": DENIED}) == (Firewall("nftables", UNSURE, UNSURE, readable=False),)


@pytest.mark.parametrize(
    ("firewalls", "is_reached", "told"),
    [
        ((), False, [(Level.OK, "no firewall", "")]),
        ((Firewall("ufw", YES, YES),), False, [(Level.OK, "ufw lets TCP port 7474 and mDNS in", "")]),
        ((Firewall("ufw", NO, YES),), False, [(Level.FAULT, "ufw keeps TCP port 7474 closed", "ufw allow 7474/tcp")]),
        (
            (Firewall("firewalld", YES, NO),),
            False,
            [(Level.FAULT, "firewalld keeps UDP port 5353 (mDNS) closed", "--add-port=5353/udp")],
        ),
        (
            (Firewall("nftables", NO, YES, chain="inet t c"),),
            False,
            [(Level.FAULT, "nftables keeps TCP port 7474", "insert rule inet t c tcp dport 7474 accept")],
        ),
        (
            (Firewall("iptables", NO, YES),),
            False,
            [(Level.FAULT, "iptables keeps TCP", "-I INPUT -p tcp --dport 7474")],
        ),
        ((Firewall("nftables", UNSURE, YES),), False, [(Level.NOTE, "for some devices", "sudo nft list ruleset")]),
        ((Firewall("nftables", NO, YES),), True, [(Level.OK, "nftables lets TCP port 7474 and mDNS in", "")]),
        ((Firewall("nftables", UNSURE, YES),), True, [(Level.OK, "nftables lets TCP port 7474 and mDNS in", "")]),
        (
            (Firewall("ufw", UNSURE, UNSURE, readable=False),),
            False,
            [(Level.NOTE, "root's to read", "sudo ufw status")],
        ),
        ((Firewall("ufw", UNSURE, UNSURE, readable=False),), True, [(Level.OK, "root's to read", "")]),
    ],
)
def test_each_firewall_has_its_command(
    firewalls: tuple[Firewall, ...], is_reached: bool, told: list[tuple[Level, str, str]]
) -> None:
    findings = list(firewall_findings(firewalls, 7474, is_reached=is_reached))
    assert len(findings) == len(told)
    for finding, (level, what, do) in zip(findings, told, strict=True):
        assert finding.level is level
        assert what in finding.what
        assert do in finding.do


def test_a_program_is_run_and_what_is_not_there_is_none() -> None:
    async def test() -> None:
        assert await run_program("no-such-firewall") is None
        assert await run_program("echo", "words") == Output("words\n", ok=True)
        failed = await run_program("sh", "-c", "echo You need to be root; exit 1")
        assert failed == Output("You need to be root\n", ok=False, refused=True)

    asyncio.run(test())


def test_a_program_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tpid.cluster.firewall.look.PROGRAM_S", 0.05)
    ended = asyncio.run(run_program("sleep", "60"))
    assert ended is not None
    assert not ended.ok
    monkeypatch.setattr("tpid.cluster.firewall.look.MAX_OUTPUT_BYTES", 1000)
    monkeypatch.setattr("tpid.cluster.firewall.look.PROGRAM_S", 10.0)
    flood = asyncio.run(run_program("yes"))
    assert flood is not None
    assert len(flood.text) <= 1000

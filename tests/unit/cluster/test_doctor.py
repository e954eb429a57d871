"""Each fault of a home has a line that names it, and says what to do."""

import ipaddress
from dataclasses import replace
from typing import Any

import pytest

from tpid.cluster.doctor import Facts, Finding, Level, LinkFacts, MemberFacts, StrangerFacts, examine, worst
from tpid.cluster.interfaces import Choice
from tpid.cluster.status import ClusterStatus, DeviceStatus, FailedDial
from tpid.comm.messages import Seen
from tpid.device import DeviceId, DeviceProfile, Role

ME, PI = DeviceId("a" * 64), DeviceId("b" * 64)


def device(device_id: DeviceId, name: str, **more: Any) -> DeviceStatus:
    profile = DeviceProfile(device_id, name, Role.USER, "0.1.0", 8 << 30, 4 << 30, 100 << 30, 4, 1.5e9, "native")
    fields: dict[str, Any] = {"address": "10.0.0.2:7474", "rtt_s": 0.0004, "is_me": device_id == ME}
    return DeviceStatus(profile, **(fields | {"coordinates": False, "granted": True} | more))


CONNECTED = (device(ME, "desk"), device(PI, "pi"))
STATUS = ClusterStatus(
    cluster="HOME",
    devices=CONNECTED,
    coordinator=ME,
    term=1,
    busy=False,
    discovery="on: announced on 10.0.0.1",
    sighted=(),
    failed=(),
    n_other_clusters=0,
    n_unreadable=0,
)
SOUND = Facts(
    name="desk",
    version="0.1.0",
    port=7474,
    stays_on_loopback=False,
    listens_on=("10.0.0.1", "127.0.0.1"),
    choices=(
        Choice("lo", (), "it stays on this machine"),
        Choice("eth0", (ipaddress.ip_address("10.0.0.1"),), "it is of the home"),
    ),
    status=STATUS,
    members=(
        MemberFacts(
            PI,
            "pi",
            announced=True,
            known_addresses=("10.0.0.2:7474",),
            not_reached={},
            seen=Seen(announced=True, reached=["10.0.0.1:7474"], not_reached={}),
            clock_skew_s=0.1,
        ),
    ),
    strangers=(),
    links={PI: LinkFacts(0.0003, 1e8)},
)


def with_member(facts: Facts, **changes: Any) -> Facts:
    return replace(facts, members=(replace(facts.members[0], **changes),))


def with_status(facts: Facts, **changes: Any) -> Facts:
    return replace(facts, status=replace(facts.status, **changes))


def failed(code: str, reason: str = "It is not there.") -> Facts:
    return with_status(SOUND, devices=CONNECTED[:1], failed=(FailedDial("10.0.0.2:7474", "pi", code, reason),))


def test_a_sound_home_has_nothing_to_mend() -> None:
    findings = examine(SOUND)
    assert worst(findings) in (Level.OK, Level.NOTE)
    assert [finding.do for finding in findings if finding.do] == []
    assert "pi at 10.0.0.2:7474: 0.30 ms there and back, 800 Mbit/s" in [finding.what for finding in findings]


@pytest.mark.parametrize(
    ("facts", "level", "what", "do"),
    [
        (with_member(SOUND, announced=False), Level.WARNING, "mDNS brings nothing from pi", "5353"),
        (
            with_member(SOUND, seen=Seen(announced=False, reached=[], not_reached={})),
            Level.WARNING,
            "mDNS brings nothing of this device to pi",
            "5353",
        ),
        (
            with_member(SOUND, seen=Seen(announced=True, reached=[], not_reached={"10.0.0.1:7474": "no answer"})),
            Level.WARNING,
            "pi does not reach this device at 10.0.0.1:7474 (no answer)",
            "port 7474 through the firewall here",
        ),
        (
            with_member(SOUND, not_reached={"10.0.0.2:7474": "no answer"}),
            Level.WARNING,
            "this device does not reach pi at 10.0.0.2:7474 (no answer)",
            "through the firewall of pi",
        ),
        (
            with_member(SOUND, known_addresses=("10.0.0.2:7474", "10.1.0.2:7474"), not_reached={"10.1.0.2:7474": "x"}),
            Level.NOTE,
            "this device does not reach pi at 10.1.0.2:7474",
            "",
        ),
        (with_status(SOUND, discovery="off: no route"), Level.FAULT, "mDNS is off", "peers"),
        (
            failed("device_lost"),
            Level.FAULT,
            "pi is announced and cannot be connected at 10.0.0.2:7474",
            "ufw allow 7474",
        ),
        (failed("not_paired"), Level.FAULT, "pi at 10.0.0.2:7474 does not count this device", "tpictl invite"),
        (failed("version_mismatch"), Level.FAULT, "pi at 10.0.0.2:7474 speaks another version", "upgrade tpid"),
        (
            with_member(with_status(SOUND, devices=CONNECTED[:1]), announced=False),
            Level.WARNING,
            "pi is not there",
            "tpictl doctor on pi",
        ),
        (with_member(SOUND, clock_skew_s=-4000.0), Level.WARNING, "differ by 4000 s", "timedatectl"),
        (replace(SOUND, links={PI: LinkFacts(0.02, 1e8)}), Level.WARNING, "20.00 ms there and back", "cable"),
        (replace(SOUND, links={PI: LinkFacts(0.002, 1e8, 0.03)}), Level.WARNING, "up to 30.00 ms more", "cable"),
        (replace(SOUND, links={PI: LinkFacts(0.001, 1e6)}), Level.WARNING, "8 Mbit/s: a slow link", "cable"),
        (
            replace(SOUND, strangers=(StrangerFacts("pi", "10.0.0.9:7474", 2),)),
            Level.WARNING,
            "pi at 10.0.0.9:7474 has the name of a device of this home",
            "tpictl join",
        ),
        (
            replace(SOUND, strangers=(StrangerFacts("attic", "10.0.0.9:7474", 2),)),
            Level.NOTE,
            "attic at 10.0.0.9:7474 is not paired",
            "tpictl join",
        ),
        (
            replace(SOUND, strangers=(StrangerFacts("old", "10.0.0.9:7474", 1),)),
            Level.FAULT,
            "speaks version 1 of the protocol",
            "upgrade tpid there",
        ),
        (replace(SOUND, stays_on_loopback=True), Level.WARNING, "keeps this device to itself", "tpid.toml"),
        (replace(SOUND, choices=SOUND.choices[:1]), Level.FAULT, "no interface is in a private network", "interfaces"),
        (
            replace(SOUND, listens_on=("127.0.0.1", "10.0.0.7")),
            Level.FAULT,
            "port 7474 on 10.0.0.1 cannot be listened on",
            "port",
        ),
        (
            with_status(SOUND, devices=(CONNECTED[0], replace(CONNECTED[1], sits_out="it failed"))),
            Level.WARNING,
            "pi sits out",
            "",
        ),
    ],
)
def test_each_fault_is_named_with_what_mends_it(facts: Facts, level: Level, what: str, do: str) -> None:
    (finding,) = [finding for finding in examine(facts) if what in finding.what]
    assert finding.level is level
    assert do in finding.do


def test_the_worst_counts() -> None:
    assert worst([]) is Level.OK
    assert worst([Finding(Level.WARNING, "a"), Finding(Level.FAULT, "b"), Finding(Level.NOTE, "c")]) is Level.FAULT

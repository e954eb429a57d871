"""What stands between this device and its home: facts in, findings out, each with what it means and what mends it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tpid.cluster.discovery import LOOPBACK
from tpid.cluster.interfaces import Choice
from tpid.cluster.status import ClusterStatus, DeviceStatus, FailedDial
from tpid.comm.messages import PROTOCOL_VERSION, Seen
from tpid.device import DeviceId

SLOW_RTT_S: Final = 0.010  # of a link: a token of a small model crosses it 60 times
SLOW_BYTES_S: Final = 6e6  # some 50 Mbit/s
SKEW_S: Final = 5.0


class Level(StrEnum):
    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: `what` is, `why` it matters, and what to `do`; the last two may be empty."""

    level: Level
    what: str
    why: str = ""
    do: str = ""


@dataclass(frozen=True, slots=True)
class LinkFacts:
    """Measured while both ends are idle; 0 where it is not yet."""

    rtt_s: float
    bytes_s: float
    jitter_s: float = 0.0


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """Another device of the home."""

    id: DeviceId
    name: str
    announced: bool  # by mDNS, now
    known_addresses: tuple[str, ...]
    not_reached: Mapping[str, str]  # those of them where nobody answers, and what is seen instead
    seen: Seen | None  # what it sees of this device, if it has said so
    clock_skew_s: float | None  # its clock less ours, at the last hello


@dataclass(frozen=True, slots=True)
class StrangerFacts:
    name: str
    address: str
    protocol_version: int


@dataclass(frozen=True, slots=True)
class Facts:
    name: str  # of this device
    version: str  # of tpid
    port: int
    stays_on_loopback: bool
    listens_on: tuple[str, ...]
    choices: tuple[Choice, ...]
    status: ClusterStatus
    members: tuple[MemberFacts, ...]
    strangers: tuple[StrangerFacts, ...]
    links: Mapping[DeviceId, LinkFacts]


def examine(facts: Facts) -> list[Finding]:
    """From the nearest to the farthest: a fault of the first kind explains those that follow."""
    return [*_interfaces(facts), *_multicast(facts), *_members(facts), *_strangers(facts)]


def _interfaces(facts: Facts) -> Iterator[Finding]:
    if facts.stays_on_loopback:
        yield Finding(
            Level.WARNING,
            'listen = "loopback" keeps this device to itself',
            "no other machine can reach it",
            "take the line out of tpid.toml and start tpid again",
        )
        return
    used = [choice for choice in facts.choices if choice.addresses]
    for choice in facts.choices:
        addresses = ", ".join(map(str, choice.addresses)) or "not used"
        yield Finding(Level.OK if choice.addresses else Level.NOTE, f"{choice.name}: {addresses}", choice.reason)
    if not used:
        yield Finding(
            Level.FAULT,
            "no interface is in a private network",
            "there is nowhere to listen for the other devices",
            'connect the cable or Wi-Fi, or name the interface in tpid.toml: interfaces = ["eth0"]',
        )
    outside = [host for host in facts.listens_on if host not in LOOPBACK]
    not_bound = [str(address) for choice in used for address in choice.addresses if str(address) not in outside]
    if outside and not_bound:
        yield Finding(
            Level.FAULT,
            f"port {facts.port} on {', '.join(not_bound)} cannot be listened on",
            "other devices cannot connect there",
            "stop the program that has the port, or set another `port` in tpid.toml",
        )


def _multicast(facts: Facts) -> Iterator[Finding]:
    state = facts.status.discovery
    if not state.startswith("on"):
        yield Finding(
            Level.FAULT if state != "disabled" else Level.NOTE,
            f"mDNS is {state}",
            "devices do not find each other by themselves",
            "let UDP port 5353 through, or give the addresses of the others in tpid.toml: peers = [...]",
        )
        return
    connected = {device.profile.id for device in facts.status.devices}
    silent = [member.name for member in facts.members if member.id in connected and not member.announced]
    deaf = [member.name for member in facts.members if member.seen is not None and not member.seen.announced]
    for names, what in (
        (silent, f"mDNS brings nothing from {', '.join(silent)}"),
        (deaf, f"mDNS brings nothing of this device to {', '.join(deaf)}"),
    ):
        if names:
            yield Finding(
                Level.WARNING,
                f"{what}, though connected",
                "multicast is blocked on the way: after a change of address they may not find each other again",
                "let UDP port 5353 through the firewall of both; on a router look for IGMP or client isolation",
            )
    if not silent and not deaf:
        yield Finding(Level.OK, f"mDNS is {state}")


def _members(facts: Facts) -> Iterator[Finding]:
    by_id = {device.profile.id: device for device in facts.status.devices}
    for member in facts.members:
        device = by_id.get(member.id)
        if device is None:
            yield _absent(facts, member)
        else:
            yield from _connected(facts, member, device)
            yield from _ways(facts, member)
    if not facts.members:
        yield Finding(Level.NOTE, "this device is alone in its home", "", "take another one in: tpictl invite")


def _ways(facts: Facts, member: MemberFacts) -> Iterator[Finding]:
    """Whether each of two that are connected could dial the other; one that can is enough until it restarts."""
    blocked = "they stay connected only while the other one dials"
    seen = member.seen
    if seen is not None and seen.not_reached:
        yield Finding(
            Level.NOTE if seen.reached else Level.WARNING,
            f"{member.name} does not reach this device at {_told(seen.not_reached)}",
            f"it reaches it at {', '.join(seen.reached)}" if seen.reached else blocked,
            "" if seen.reached else f"let TCP port {facts.port} through the firewall here: {allow(facts.port)}",
        )
    elif seen is not None and seen.reached:
        yield Finding(Level.OK, f"{member.name} reaches this device at {', '.join(seen.reached)}")
    answers = [address for address in member.known_addresses if address not in member.not_reached]
    if member.not_reached:
        port = next(iter(member.not_reached)).rpartition(":")[2]
        yield Finding(
            Level.NOTE if answers else Level.WARNING,
            f"this device does not reach {member.name} at {_told(member.not_reached)}",
            f"it reaches it at {', '.join(answers)}" if answers else blocked,
            "" if answers else f"let TCP port {port} through the firewall of {member.name}: {allow(int(port))}",
        )


def allow(port: int, protocol: str = "tcp") -> str:
    """What opens a port where ufw is the firewall, which most have; `firewall_findings` knows the one that is there."""
    return f"such as sudo ufw allow {port}/{protocol}"


def _told(not_reached: Mapping[str, str]) -> str:
    return ", ".join(f"{address} ({why})" for address, why in not_reached.items())


def _absent(facts: Facts, member: MemberFacts) -> Finding:
    failed = _failed(facts.status.failed, member)
    if failed is None and not member.announced:
        return Finding(
            Level.WARNING,
            f"{member.name} is not there",
            "it is off, in another network, or mDNS does not get through",
            f"look at it: tpictl doctor on {member.name}",
        )
    where = failed.address if failed is not None else ", ".join(member.known_addresses)
    if failed is not None and failed.code == "version_mismatch":
        return Finding(
            Level.FAULT,
            f"{member.name} at {where} speaks another version of the protocol",
            failed.reason,
            "upgrade tpid where it is older",
        )
    if failed is not None and failed.code == "not_paired":
        return Finding(
            Level.FAULT,
            f"{member.name} at {where} does not count this device to its home",
            "it was removed there, or has left",
            "pair both again: tpictl leave here, tpictl invite there, tpictl join CODE here",
        )
    seen = _told(member.not_reached) or where
    return Finding(
        Level.FAULT,
        f"{member.name} is announced and cannot be connected at {seen}",
        failed.reason if failed is not None and not member.not_reached else "its port does not answer",
        f"look whether tpid runs there, and let its TCP port through its firewall ({allow(facts.port)})",
    )


def _failed(failed: Sequence[FailedDial], member: MemberFacts) -> FailedDial | None:
    return next((entry for entry in failed if entry.name == member.name), None)


def _connected(facts: Facts, member: MemberFacts, device: DeviceStatus) -> Iterator[Finding]:
    link = facts.links.get(member.id)
    rtt_s = link.rtt_s if link is not None and link.rtt_s else device.rtt_s
    speed = f", {link.bytes_s * 8 / 1e6:.0f} Mbit/s" if link is not None and link.bytes_s else ""
    told = f"{rtt_s * 1e3:.2f} ms there and back" if rtt_s is not None else "not measured yet"
    jitter_s = link.jitter_s if link is not None else 0.0
    told += f", up to {jitter_s * 1e3:.2f} ms more" if jitter_s else ""
    what = f"{member.name} at {device.address}: {told}{speed}"
    slow = rtt_s is not None and rtt_s + jitter_s > SLOW_RTT_S
    thin = link is not None and 0 < link.bytes_s < SLOW_BYTES_S
    if slow or thin:
        yield Finding(
            Level.WARNING,
            f"{what}: a slow link",
            "each token crosses it twice a layer; a plan may have to leave the device out",
            "use a cable, or move it nearer to the access point",
        )
    else:
        yield Finding(Level.OK, what)
    if device.profile.version != facts.version:
        yield Finding(
            Level.NOTE,
            f"{member.name} runs tpid {device.profile.version}, this device {facts.version}",
            "",
            "upgrade both",
        )
    if member.clock_skew_s is not None and abs(member.clock_skew_s) > SKEW_S:
        yield Finding(
            Level.WARNING,
            f"the clocks of {member.name} and this device differ by {abs(member.clock_skew_s):.0f} s",
            "times in logs and `last seen` do not agree; the home itself works",
            "let both set their clocks: sudo timedatectl set-ntp true",
        )
    if device.sits_out is not None:
        yield Finding(Level.WARNING, f"{member.name} sits out for a while", device.sits_out)


def _strangers(facts: Facts) -> Iterator[Finding]:
    names = {facts.name, *(member.name for member in facts.members)}
    for stranger in facts.strangers:
        who = f"{stranger.name} at {stranger.address}"
        if stranger.protocol_version != PROTOCOL_VERSION:
            older = "there" if stranger.protocol_version < PROTOCOL_VERSION else "here"
            yield Finding(
                Level.FAULT,
                f"{who} speaks version {stranger.protocol_version} of the protocol, this device {PROTOCOL_VERSION}",
                "they do not understand each other",
                f"upgrade tpid {older}",
            )
        elif stranger.name in names:
            yield Finding(
                Level.WARNING,
                f"{who} has the name of a device of this home, and is of another home",
                "it is not the one that you know",
                "if it is yours: tpictl invite here, tpictl join CODE there",
            )
        else:
            yield Finding(
                Level.NOTE,
                f"{who} is not paired",
                "it is of another home",
                "tpictl invite here, tpictl join CODE there",
            )


def worst(findings: Iterable[Finding]) -> Level:
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.OK)

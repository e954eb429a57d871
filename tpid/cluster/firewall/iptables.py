"""What `iptables -S` says: whether a packet passes the chain INPUT."""

import ipaddress
import shlex
from typing import Final

from tpid.cluster.firewall.walk import Fits, Packet, Passes, Rule, Verdict, both, passes

_VERDICTS: Final = {
    "ACCEPT": Verdict.ACCEPT,
    "DROP": Verdict.DROP,
    "REJECT": Verdict.DROP,
    "RETURN": Verdict.RETURN,
}
_GO_ON: Final = {"LOG", "NFLOG", "MARK", "CONNMARK", "AUDIT", "TRACE"}  # targets that decide nothing
# Options that ask nothing of a packet; the others are conditions, and what follows is their value.
_NEUTRAL: Final = {"-m", "--match", "--comment", "--reject-with", "--log-prefix", "--log-level", "--set-xmark"}


def iptables_passes(text: str, packet: Packet) -> Passes | None:
    """None where nothing is filtered at all. Raises ValueError for what is no list of rules."""
    policies: dict[str, bool] = {}
    chains: dict[str, list[Rule]] = {}
    for line in text.splitlines():
        match shlex.split(line):
            case ["-P", chain, policy]:
                policies[chain] = policy == "ACCEPT"
            case ["-N", chain]:
                chains.setdefault(chain, [])
            case ["-A", chain, *options]:
                rule = _rule(options, packet)
                chains.setdefault(chain, []).extend([rule] if rule is not None else [])
    if "INPUT" not in policies:
        raise ValueError("not a list of iptables' rules: it has no policy of INPUT")
    if policies["INPUT"] and not chains.get("INPUT"):
        return None
    return passes(chains, "INPUT", accepts=policies["INPUT"])


def _rule(options: list[str], packet: Packet) -> Rule | None:
    """None for a rule that decides nothing."""
    fits, inverted, rest = Fits.YES, False, list(options)
    while rest:
        option = rest.pop(0)
        if option == "!":
            inverted = True
            continue
        value = rest.pop(0) if rest and not rest[0].startswith("-") and rest[0] != "!" else ""
        if option in ("-j", "-g"):
            if value in _GO_ON:
                return None
            jump = Verdict.JUMP if option == "-j" else Verdict.GOTO
            verdict = _VERDICTS.get(value, jump)
            return Rule(fits, verdict, value if verdict is jump else "")
        if option not in _NEUTRAL:
            holds = _holds(option, value, packet)
            fits = both(fits, ~holds if inverted else holds)
        inverted = False
    return None


def _holds(option: str, value: str, packet: Packet) -> Fits:
    match option:
        case "-p":
            return _yes(value in (packet.protocol, "all"))
        case "--dport" | "--dports" | "--destination-port" | "--destination-ports":
            return _yes(any(_in_range(packet.port, part) for part in value.split(",")))
        case "--ctstate" | "--state":
            return _yes("NEW" in value.split(","))
        case "-i":
            return Fits.NO if value == "lo" else Fits.PERHAPS
        case "-d" if packet.group is not None:
            return _yes(ipaddress.ip_address(packet.group) in ipaddress.ip_network(value, strict=False))
        case _:
            return Fits.PERHAPS


def _in_range(port: int, part: str) -> bool:
    first, _, last = part.partition(":")
    return int(first or 0) <= port <= int(last or (65535 if ":" in part else first))


def _yes(holds: bool) -> Fits:
    return Fits.YES if holds else Fits.NO

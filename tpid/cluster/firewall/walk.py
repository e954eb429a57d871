"""Whether a packet passes chains of rules. What a rule asks beyond port and protocol may be unknown: three answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

MAX_DEPTH: Final = 32  # of chains that jump to chains
MAX_STEPS: Final = 20_000  # of rules that are looked at, in all chains


class Fits(Enum):
    NO = auto()
    PERHAPS = auto()  # some packets of this kind, by address, interface or whatever else
    YES = auto()

    def __invert__(self) -> "Fits":
        return {Fits.NO: Fits.YES, Fits.YES: Fits.NO}.get(self, self)


class Passes(Enum):
    YES = "yes"
    NO = "no"
    UNSURE = "unsure"


class Verdict(Enum):
    ACCEPT = auto()
    DROP = auto()
    RETURN = auto()
    JUMP = auto()
    GOTO = auto()


class _End(Enum):
    ACCEPTED = auto()
    DROPPED = auto()
    THROUGH = auto()  # the chain has not decided


@dataclass(frozen=True, slots=True)
class Packet:
    """The first of a conversation, by IPv4, from another device of the private network."""

    protocol: str  # "tcp" or "udp"
    port: int
    group: str | None = None  # the multicast group that it is for


@dataclass(frozen=True, slots=True)
class Rule:
    """For one packet: whether the rule is about it, and what it then does."""

    fits: Fits
    verdict: Verdict
    target: str = ""  # the chain of JUMP and GOTO


Chains = Mapping[str, Sequence[Rule]]


def passes(chains: Chains, name: str, *, accepts: bool) -> Passes:
    """From the chain of that name on; `accepts` is its policy."""
    ends = _Walk(chains).ends_of(name, MAX_DEPTH)
    if _End.THROUGH in ends:
        ends = ends - {_End.THROUGH} | {_End.ACCEPTED if accepts else _End.DROPPED}
    if ends == {_End.ACCEPTED}:
        return Passes.YES
    return Passes.NO if ends == {_End.DROPPED} else Passes.UNSURE


def all_of(answers: Sequence[Passes]) -> Passes:
    """Of filters that a packet meets one after the other."""
    if Passes.NO in answers:
        return Passes.NO
    return Passes.UNSURE if Passes.UNSURE in answers else Passes.YES


def both(*conditions: Fits) -> Fits:
    """Whether all hold."""
    if Fits.NO in conditions:
        return Fits.NO
    return Fits.PERHAPS if Fits.PERHAPS in conditions else Fits.YES


class _Walk:
    def __init__(self, chains: Chains) -> None:
        self._chains = chains
        self._steps = 0

    def ends_of(self, name: str, depth: int) -> set[_End]:
        """All that may become of the packet there."""
        ends: set[_End] = set()
        for rule in self._chains.get(name, ()) if depth else ():
            self._steps += 1
            if self._steps > MAX_STEPS:
                return {_End.ACCEPTED, _End.DROPPED}
            if rule.fits is Fits.NO:
                continue
            these = self._ends_by(rule, depth)
            goes_on = _End.THROUGH in these and rule.verdict is Verdict.JUMP
            ends |= these - {_End.THROUGH} if goes_on else these
            if rule.fits is Fits.YES and not goes_on:
                return ends
        return ends | {_End.THROUGH}

    def _ends_by(self, rule: Rule, depth: int) -> set[_End]:
        match rule.verdict:
            case Verdict.ACCEPT:
                return {_End.ACCEPTED}
            case Verdict.DROP:
                return {_End.DROPPED}
            case Verdict.RETURN:
                return {_End.THROUGH}
            case Verdict.JUMP | Verdict.GOTO:
                return self.ends_of(rule.target, depth - 1)

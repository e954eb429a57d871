"""Storms: which faults a home meets and when, from a seed. Pure; the words are those of faults.py."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Span:
    """How long a fault lasts, drawn evenly; seconds."""

    least_s: float
    most_s: float


@dataclass(frozen=True, slots=True)
class Kind:
    """A fault of one host: what makes it, what ends it; `HOST` in the words is replaced."""

    begin: tuple[str, ...]
    end: tuple[str, ...]
    lasts: Span


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "kill": Kind(("kill", "HOST"), ("start", "HOST"), Span(0.2, 5.0)),
        "stop": Kind(("stop", "HOST"), ("cont", "HOST"), Span(0.2, 6.0)),
        "cut": Kind(("cut", "HOST"), ("heal", "HOST"), Span(0.2, 6.0)),
        "loss": Kind(("change", "HOST", "loss_percent=20"), ("heal", "HOST"), Span(0.5, 3.0)),
        "slow": Kind(("change", "HOST", "delay_ms=40", "jitter_ms=20"), ("heal", "HOST"), Span(1.0, 5.0)),
    }
)


@dataclass(frozen=True, slots=True)
class Storm:
    """Bounds of a schedule; seconds. After `duration_s` nothing is broken."""

    duration_s: float
    gap: Span = Span(0.5, 4.0)  # from the beginning of a fault to that of the next
    max_broken: int = 1  # hosts with a fault at the same time
    kinds: Sequence[str] = field(default=tuple(KINDS))


@dataclass(frozen=True, slots=True)
class Step:
    """At `at_s` after the begin, `words` are to be done."""

    at_s: float
    words: tuple[str, ...]


def schedule(seed: int, hosts: Sequence[str], storm: Storm) -> tuple[Step, ...]:
    """The same for the same arguments, in order of time. A host has one fault at a time, and each fault is ended."""
    chance = random.Random(seed)
    steps: list[Step] = []
    broken_until_s = dict.fromkeys(hosts, 0.0)
    at_s = _drawn(chance, storm.gap)
    while at_s < storm.duration_s:
        whole = [host for host in hosts if broken_until_s[host] <= at_s]
        kind, lasts_s = _fault(chance, storm)
        if whole and len(hosts) - len(whole) < storm.max_broken:
            host = chance.choice(whole)
            end_s = min(at_s + lasts_s, storm.duration_s)
            broken_until_s[host] = end_s
            steps += [Step(at_s, _of(host, kind.begin)), Step(end_s, _of(host, kind.end))]
        at_s += _drawn(chance, storm.gap)
    return tuple(sorted(steps, key=lambda step: step.at_s))  # stable: what begins is not overtaken by its end


def _fault(chance: random.Random, storm: Storm) -> tuple[Kind, float]:
    kind = KINDS[chance.choice(storm.kinds)]
    return kind, _drawn(chance, kind.lasts)


def _drawn(chance: random.Random, span: Span) -> float:
    return round(chance.uniform(span.least_s, span.most_s), 3)


def _of(host: str, words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(host if word == "HOST" else word for word in words)

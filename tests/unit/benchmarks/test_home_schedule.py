"""Storms: the same for the same seed, and within their bounds."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homelab.faults import Faults
from homelab.schedule import KINDS, Kind, Span, Step, Storm, schedule

HOSTS = ("user", "helper1", "helper2", "helper3")

spans = st.tuples(st.floats(0.05, 5), st.floats(0, 5)).map(lambda pair: Span(pair[0], pair[0] + pair[1]))
storms = st.builds(
    Storm,
    duration_s=st.floats(0, 60),
    gap=spans,
    max_broken=st.integers(0, 4),
    kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=1, unique=True).map(tuple),
)
seeds = st.integers(0, 2**32)
_ENDS = {kind.end[0] for kind in KINDS.values()}


@given(seeds, storms)
def test_a_seed_makes_one_storm(seed: int, storm: Storm) -> None:
    assert schedule(seed, HOSTS, storm) == schedule(seed, HOSTS, storm)


@given(seeds, storms)
def test_faults_of_a_host_follow_each_other_and_are_ended_in_time(seed: int, storm: Storm) -> None:
    broken: dict[str, Step] = {}
    last_s = 0.0
    for step in schedule(seed, HOSTS, storm):
        assert last_s <= step.at_s <= storm.duration_s
        last_s = step.at_s
        name, host = step.words[0], step.words[1]
        if name in _ENDS:
            begun = broken.pop(host)
            kinds = [kind for kind in KINDS.values() if (kind.begin[0], kind.end[0]) == (begun.words[0], name)]
            assert any(step.at_s - begun.at_s <= kind.lasts.most_s + 1e-6 for kind in kinds)
        else:
            assert host not in broken
            broken[host] = step
            assert len(broken) <= storm.max_broken
    assert not broken


def test_a_long_storm_has_all_kinds_on_all_hosts() -> None:
    steps = schedule(1, HOSTS, Storm(duration_s=1000, gap=Span(0.1, 1.0), max_broken=3))
    assert {step.words[1] for step in steps} == set(HOSTS)
    n_begun = Counter(step.words[0] for step in steps if step.words[0] not in _ENDS)
    assert n_begun.keys() == {kind.begin[0] for kind in KINDS.values()}
    assert min(n_begun.values()) > 10


def test_seeds_differ() -> None:
    storm = Storm(duration_s=30)
    assert len({schedule(seed, HOSTS, storm) for seed in range(20)}) == 20


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_words_are_those_of_faults(kind: Kind) -> None:
    assert {kind.begin[0], kind.end[0]} <= Faults.names().keys()

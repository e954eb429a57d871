"""Sources that give, hang, lie and go, by seed: every piece comes once, from somebody who has it."""

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpid.device import DeviceId
from tpid.pack.geometry import Half
from tpid.pack.pieces import Piece
from tpid.transfer.scheduler import SILENT_S, WINDOW_BYTES, Action, Ask, Drop, Scheduler

SIZE = 1 << 20
PIECES = [Piece(layer, Half.FFN, unit) for layer in range(4) for unit in range(8)]
A, B, C = (DeviceId(letter * 64) for letter in "abc")


@dataclass
class Source:
    bytes_s: float
    has: frozenset[Piece]
    corrupts: float = 0.0  # the part of its answers that is damaged
    ends_s: float = 1e9
    hangs_s: float = 1e9
    queue: list[tuple[Piece, float]] = field(default_factory=list)  # and how much of it has come


class Network:
    """Steps of a tenth of a second."""

    def __init__(self, sources: dict[DeviceId, Source], seed: int = 0) -> None:
        self.sources = sources
        self.now = 0.0
        self.scheduler = Scheduler(dict.fromkeys(PIECES, SIZE))
        self.dropped: dict[DeviceId, str] = {}
        self.came: list[tuple[DeviceId, Piece]] = []
        self.asked: list[Ask] = []
        self._chance = random.Random(seed)

    def run(self, seconds: float) -> None:
        for id, source in self.sources.items():
            self.perform(self.scheduler.source_up(id, source.has.__contains__, self.now))
        while not self.scheduler.done and self.now < seconds:
            self.now += 0.1
            for id, source in list(self.sources.items()):
                if id in self.scheduler.sources:
                    self._step(id, source)
            self.perform(self.scheduler.tick(self.now))

    def _step(self, id: DeviceId, source: Source) -> None:
        if self.now >= source.ends_s:
            source.queue.clear()
            self.perform(self.scheduler.source_lost(id, self.now))
            return
        room = source.bytes_s * 0.1 if self.now < source.hangs_s else 0.0
        while room > 0 and source.queue and id in self.scheduler.sources:
            piece, came = source.queue[0]
            step = min(room, SIZE - came)
            room -= step
            self.scheduler.heard(id, round(step), self.now)
            source.queue[0] = piece, came + step
            if came + step < SIZE:
                return
            source.queue.pop(0)
            if self._chance.random() < source.corrupts:
                self.perform(self.scheduler.corrupt(id, piece, self.now))
            else:
                if self.scheduler.is_wanted(piece):
                    self.came.append((id, piece))
                self.perform(self.scheduler.arrived(id, piece, self.now))

    def perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Ask(source, piece):
                    self.asked.append(action)
                    assert piece in self.sources[source].has
                    self.sources[source].queue.append((piece, 0.0))
                    assert len(self.sources[source].queue) * SIZE <= WINDOW_BYTES
                case Drop(source, reason):
                    self.dropped[source] = reason
                    self.sources[source].queue.clear()


ALL = frozenset(PIECES)


def test_two_sources_share_the_work_by_their_speed() -> None:
    network = Network({A: Source(8e6, ALL), B: Source(2e6, ALL)})
    network.run(60)
    by_a = sum(source == A for source, _ in network.came)
    assert len(network.came) == len(PIECES)
    assert 20 <= by_a <= 28
    assert network.now < 5  # of 3.4 s at both speeds together
    assert not network.dropped


def test_what_a_lost_source_owed_comes_from_another() -> None:
    network = Network({A: Source(8e6, ALL, ends_s=1.5), B: Source(8e6, ALL)})
    network.run(60)
    assert network.scheduler.done
    assert {piece for _, piece in network.came} == ALL
    assert len(network.came) == len(PIECES)  # none a second time


def test_a_source_that_hangs_is_named_and_what_it_owes_does_not_wait_for_that() -> None:
    network = Network({A: Source(8e6, ALL, hangs_s=0.5), B: Source(8e6, ALL)})
    network.run(60)
    assert network.scheduler.done
    assert network.now < SILENT_S + 2.5


def test_a_silent_source_is_dropped_with_its_reason() -> None:
    network = Network({A: Source(8e6, ALL, hangs_s=0.5)})
    network.run(20)
    assert network.dropped == {A: "has sent nothing for 5 s"}
    assert network.scheduler.stuck


def test_a_source_that_comes_again_is_asked_anew_for_what_it_owed() -> None:
    scheduler = Scheduler(dict.fromkeys(PIECES[:2], SIZE))
    first = scheduler.source_up(A, ALL.__contains__, 0.0)
    assert scheduler.source_up(A, ALL.__contains__, 1.0) == first


def test_what_takes_long_to_write_is_not_held_against_its_source() -> None:
    scheduler = Scheduler(dict.fromkeys(PIECES[:2], SIZE))
    scheduler.source_up(A, ALL.__contains__, 0.0)
    scheduler.source_up(B, ALL.__contains__, 0.0)
    for piece in PIECES[:2]:
        scheduler.heard(A, SIZE, 0.5)
        scheduler.came(A, piece)
    assert scheduler.tick(2 * SILENT_S) == []
    scheduler.arrived(A, PIECES[0], 2 * SILENT_S)
    scheduler.arrived(A, PIECES[1], 2 * SILENT_S)
    assert scheduler.done


def test_a_damaged_unit_is_asked_of_another_and_its_sender_is_dropped() -> None:
    network = Network({A: Source(8e6, ALL, corrupts=1.0), B: Source(1e6, ALL)})
    network.run(60)
    assert network.scheduler.done
    assert network.dropped.keys() == {A}
    assert "sent a damaged unit" in network.dropped[A]
    assert {source for source, _ in network.came} == {B}


def test_a_slow_source_is_dropped_where_another_has_all_that_it_has() -> None:
    slow = Source(2e4, ALL)
    network = Network({A: Source(2e6, ALL), B: slow})
    network.run(120)
    assert network.scheduler.done
    assert B in network.dropped
    assert "where another sends" in network.dropped[B]


def test_a_slow_source_that_alone_has_something_stays() -> None:
    network = Network({A: Source(2e6, ALL - {PIECES[5]}), B: Source(1e5, frozenset({PIECES[5]}))})
    network.run(120)
    assert network.scheduler.done
    assert not network.dropped


def test_what_a_source_says_that_it_lacks_is_asked_of_another() -> None:
    scheduler = Scheduler({PIECES[0]: SIZE})
    assert scheduler.source_up(A, ALL.__contains__, 0.0) == [Ask(A, PIECES[0])]
    assert scheduler.source_up(B, ALL.__contains__, 0.0) == []
    assert scheduler.not_given(A, PIECES[0], 0.1) == [Ask(B, PIECES[0])]
    scheduler.arrived(B, PIECES[0], 0.2)
    assert scheduler.done


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.floats(1e5, 2e7),
            st.sets(st.sampled_from(PIECES)),
            st.sampled_from([0.0, 0.0, 0.1, 1.0]),
            st.floats(0, 30),
        ),
        min_size=1,
        max_size=3,
    ),
    st.integers(0, 1 << 30),
)
def test_whatever_sources_do_the_share_is_whole_or_nobody_is_left_who_has_more(
    drawn: list[tuple[float, set[Piece], float, float]], seed: int
) -> None:
    ids = (A, B, C)
    sources = {
        id: Source(rate, frozenset(has), corrupts, ends_s)
        for id, (rate, has, corrupts, ends_s) in zip(ids, drawn, strict=False)
    }
    network = Network(sources, seed)
    network.run(400)
    assert len({piece for _, piece in network.came}) == len(network.came)
    assert network.scheduler.done == (len(network.came) == len(PIECES))
    assert network.scheduler.done or network.scheduler.stuck


@pytest.mark.parametrize("event", ["source_lost", "corrupt", "not_given", "arrived"])
def test_news_of_a_source_that_is_gone_changes_nothing(event: str) -> None:
    scheduler = Scheduler({PIECES[0]: SIZE})
    arguments = (A, 1.0) if event == "source_lost" else (A, PIECES[0], 1.0)
    assert getattr(scheduler, event)(*arguments) == []

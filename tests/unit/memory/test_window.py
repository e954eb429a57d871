"""The window under any timing of reads, releases, skips, cancellations and failures."""

import random
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpid.memory.window import Place, Read, Window

READ_BYTES = 4


@dataclass
class Disk:
    """A ring whose every byte says what was read into it, and reads that end when the test says so."""

    window: Window
    serial: int = 0  # of the next place that is met
    ring: list[tuple[Place, int] | None] = field(default_factory=list)
    under_way: list[Read] = field(default_factory=list)
    leased: Place | None = None
    started: list[Place] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ring = [None] * self.window.ring_bytes

    def start_reads(self) -> None:
        while (read := self.window.next_read()) is not None:
            self.check_free(read)
            if read.item_offset == 0:
                self.started.append(read.place)
            self.under_way.append(read)
        assert len(self.under_way) <= self.window.max_reads
        assert len(self.under_way) == self.window.reads

    def check_free(self, read: Read) -> None:
        """Nobody reads into these bytes or computes with them, and the item is in one piece."""
        mine = set(range(read.ring_offset, read.ring_offset + read.size_bytes))
        assert 0 < read.size_bytes <= READ_BYTES
        assert max(mine) < self.window.ring_bytes
        assert read.ring_offset - read.item_offset == read.place.begin % self.window.ring_bytes
        for other in self.under_way:
            assert mine.isdisjoint(range(other.ring_offset, other.ring_offset + other.size_bytes))
        if self.leased is not None and self.leased is not read.place:
            begin = self.leased.begin % self.window.ring_bytes
            assert mine.isdisjoint(range(begin, begin + self.leased.size_bytes))

    def end(self, read: Read, error: Exception | None = None) -> None:
        self.under_way.remove(read)
        if error is not None:
            self.window.failed(read, error)
            return
        for offset in range(read.size_bytes):
            self.ring[read.ring_offset + offset] = read.place, read.item_offset + offset
        self.window.done(read)

    def check_holds(self, place: Place) -> None:
        begin = place.begin % self.window.ring_bytes
        assert self.ring[begin : begin + place.size_bytes] == [(place, offset) for offset in range(place.size_bytes)]


def wait_for(disk: Disk, place: Place, rng: random.Random, failure: float) -> None:
    """Until the item is there or has failed, reads ending in any order. It always comes: there is no deadlock."""
    for _ in range(1000):
        if place.ready or place.error is not None:
            return
        disk.start_reads()
        assert disk.under_way, "nothing is read and the item is not there"
        error = OSError("broken") if rng.random() < failure else None
        disk.end(rng.choice(disk.under_way), error)
    raise AssertionError("the item never came")


def let_time_pass(disk: Disk, rng: random.Random, failure: float) -> None:
    for _ in range(rng.randint(0, 4)):
        disk.start_reads()
        if disk.under_way:
            disk.end(rng.choice(disk.under_way), OSError("broken") if rng.random() < failure else None)


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=7),
    spare=st.integers(0, 20),
    read_bytes=st.integers(1, 4),
    max_reads=st.integers(1, 4),
    chances=st.tuples(*[st.sampled_from([0.0, 0.05, 0.3])] * 3),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=400, deadline=None)
def test_any_timing(
    *, sizes: list[int], spare: int, read_bytes: int, max_reads: int, chances: tuple[float, ...], seed: int
) -> None:
    """Passes that end early, skip items, or are given up while they wait; reads that fail."""
    rng, (failure, abort, skip) = random.Random(seed), chances
    disk = Disk(Window(sizes, max(sizes) + spare, read_bytes, max_reads))
    for _ in range(6):
        for item in range(rng.choice([len(sizes), rng.randint(1, len(sizes))])):
            if rng.random() < skip:
                continue
            place = disk.window.wanted(item)
            assert place.item == item
            let_time_pass(disk, rng, failure)
            if rng.random() < abort:
                disk.window.release(place)
                break
            wait_for(disk, place, rng, failure)
            if place.error is not None:
                disk.window.release(place)
                break
            disk.check_holds(place)
            disk.leased = place
            let_time_pass(disk, rng, failure)
            disk.check_holds(place)
            disk.leased = None
            disk.window.release(place)
    # Whatever was, a pass without failures goes through.
    for item in range(len(sizes)):
        place = disk.window.wanted(item)
        wait_for(disk, place, rng, 0.0)
        while place.error is not None:  # what was read ahead, and failed
            disk.window.release(place)
            place = disk.window.wanted(item)
            wait_for(disk, place, rng, 0.0)
        disk.check_holds(place)
        disk.window.release(place)


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=7),
    spare=st.integers(0, 20),
    max_reads=st.integers(1, 4),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=100, deadline=None)
def test_without_faults_each_item_is_read_once_a_pass_in_order(
    sizes: list[int], spare: int, max_reads: int, seed: int
) -> None:
    rng = random.Random(seed)
    disk = Disk(Window(sizes, max(sizes) + spare, READ_BYTES, max_reads))
    for _ in range(4):
        for item in range(len(sizes)):
            place = disk.window.wanted(item)
            wait_for(disk, place, rng, 0.0)
            let_time_pass(disk, rng, 0.0)
            disk.check_holds(place)
            disk.window.release(place)
    order = [place.item for place in disk.started]
    assert order == [number % len(sizes) for number in range(len(order))]
    assert 4 * len(sizes) <= len(order) <= 5 * len(sizes)


def all_reads(window: Window) -> deque[Read]:
    reads: deque[Read] = deque()
    while (read := window.next_read()) is not None:
        reads.append(read)
    return reads


def test_it_reads_ahead_across_the_end_of_a_pass() -> None:
    window = Window([4, 4, 4], 8, READ_BYTES, 4)
    first, second = all_reads(window)
    assert (first.place.item, second.place.item) == (0, 1)
    window.done(first)
    window.done(second)
    for item in (0, 1):
        window.release(window.wanted(item))
    assert [read.place.item for read in all_reads(window)] == [2, 0]


def test_a_place_that_is_half_free_is_read_into() -> None:
    window = Window([2, 6, 2, 5], 10, 1, 100)
    for read in all_reads(window):
        window.done(read)
    window.release(window.wanted(0))  # bytes 0 and 1 are free; item 3 begins there, and needs more
    ahead = [(read.place.item, read.ring_offset) for read in all_reads(window)]
    assert ahead == [(3, 0), (3, 1)]


def test_a_part_is_not_written_before_the_read_that_was_given_up_has_ended() -> None:
    window = Window([8, 8], 8, READ_BYTES, 4)
    old = all_reads(window)
    window.release(window.wanted(0))
    place = window.wanted(1)
    assert window.next_read() is None
    window.done(old.popleft())
    assert window.next_read() is None
    window.failed(old.popleft(), OSError())
    assert {read.place for read in all_reads(window)} == {place}


def test_nothing_is_read_behind_an_error_until_it_is_met() -> None:
    window = Window([4, 4, 4], 12, READ_BYTES, 1)
    read = window.next_read()
    assert read is not None
    window.failed(read, OSError("broken"))
    assert window.next_read() is None
    place = window.wanted(0)
    assert str(place.error) == "broken"
    window.release(place)
    again = window.wanted(0)
    assert again.error is None
    read = window.next_read()
    assert read is not None
    assert read.place is again


def test_an_item_that_is_skipped_is_given_up() -> None:
    window = Window([4, 4, 4], 12, READ_BYTES, 4)
    for read in all_reads(window):
        window.done(read)
    window.release(window.wanted(0))
    place = window.wanted(2)
    assert place.ready
    assert [read.place.item for read in all_reads(window)] == [0, 1]


def test_what_is_skipped_makes_room_for_what_is_half_read() -> None:
    window = Window([4, 3, 8], 10, READ_BYTES, 4)
    for read in all_reads(window):
        window.done(read)
    window.release(window.wanted(0))
    (half,) = all_reads(window)
    assert (half.place.item, half.item_offset) == (2, 0)
    window.done(half)
    place = window.wanted(2)
    for read in all_reads(window):
        window.done(read)
    assert place.ready


@pytest.mark.parametrize(("sizes", "ring"), [([5], 4), ([4, 0], 8), ([-1], 8)])
def test_an_item_that_cannot_be_in_the_ring_is_refused(sizes: list[int], ring: int) -> None:
    with pytest.raises(ValueError, match="in a ring of"):
        Window(sizes, ring, READ_BYTES, 4)

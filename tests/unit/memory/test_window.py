"""The window under any timing of reads, releases, skips and failures."""

from collections import deque
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tpid.errors import LoadError
from tpid.memory.window import Place, Read, Window

MAX_READS = 3


class Walk(RuleBasedStateMachine):
    """A walker that leases item after item, a disk that ends its reads in any order, and what must hold meanwhile.

    The ring is modelled byte by byte: who wrote it last, and whether a lease or a read holds it.
    """

    @initialize(
        sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), more=st.integers(0, 20), part=st.integers(1, 5)
    )
    def begin(self, sizes: list[int], more: int, part: int) -> None:
        self.window = Window(sizes, max(sizes) + more, part, MAX_READS)
        self.ring: list[tuple[int, int] | None] = [None] * self.window.ring_bytes  # (item, offset) of each byte
        self.reads: list[Read] = []
        self.next_item = 0
        self.place: Place | None = None  # that the walker waits for or holds

    @rule()
    def read_ahead(self) -> None:
        while (read := self.window.next_read()) is not None:
            span = range(read.ring_offset, read.ring_offset + read.size_bytes)
            assert span.stop <= self.window.ring_bytes
            assert not any(set(span) & set(self._span(other)) for other in self.reads), "two reads into one byte"
            if self.place is not None and self.place is not read.place:
                held = self.place.begin % self.window.ring_bytes
                taken = range(held, held + self.place.read_bytes)
                assert not set(span) & set(taken), "a read into what the walker holds"
            self.reads.append(read)
        assert self.window.reads == len(self.reads) <= MAX_READS

    @precondition(lambda self: self.reads)
    @rule(data=st.data())
    def a_read_ends(self, data: st.DataObject) -> None:
        read = self.reads.pop(data.draw(st.integers(0, len(self.reads) - 1)))
        for i in range(read.size_bytes):
            self.ring[read.ring_offset + i] = (read.place.item, read.item_offset + i)
        self.window.done(read)

    @precondition(lambda self: self.reads)
    @rule(data=st.data())
    def a_read_fails(self, data: st.DataObject) -> None:
        read = self.reads.pop(data.draw(st.integers(0, len(self.reads) - 1)))
        self.window.failed(read, LoadError("The disk is gone."))

    @precondition(lambda self: self.place is None)
    @rule()
    def the_next_item_is_wanted(self) -> None:
        self.place = self.window.wanted(self.next_item)
        assert self.place.item == self.next_item
        self.next_item = (self.next_item + 1) % len(self.window.sizes_bytes)

    @precondition(lambda self: self.place is None)
    @rule(data=st.data())
    def the_walk_begins_elsewhere(self, data: st.DataObject) -> None:
        self.next_item = data.draw(st.integers(0, len(self.window.sizes_bytes) - 1))

    @precondition(lambda self: self.place is not None and (self.place.ready or self.place.error))
    @rule()
    def the_item_is_computed(self) -> None:
        assert self.place is not None
        if self.place.error is None:
            begin = self.place.begin % self.window.ring_bytes
            expected = [(self.place.item, i) for i in range(self.place.size_bytes)]
            assert self.ring[begin : begin + self.place.size_bytes] == expected
        self.window.release(self.place)
        self.place = None

    @precondition(lambda self: self.place is not None)
    @rule()
    def the_walk_gives_up(self) -> None:
        assert self.place is not None
        self.window.release(self.place)
        self.place = None

    @invariant()
    def nobody_waits_for_ever(self) -> None:
        """Whoever waits has a read under way, can have one, or has what it waits for."""
        if getattr(self, "place", None) is None or self.place.ready or self.place.error:
            return
        if not self.reads:
            self.read_ahead()
            assert self.reads, "the walker waits, and nothing will be read"

    def _span(self, read: Read) -> range:
        return range(read.ring_offset, read.ring_offset + read.size_bytes)


TestWalk = Walk.TestCase


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    more=st.integers(0, 30),
    part=st.integers(1, 5),
    order=st.randoms(use_true_random=False),
)
def test_every_item_is_delivered_in_order_pass_after_pass(
    sizes: list[int], more: int, part: int, order: Random
) -> None:
    window = Window(sizes, max(sizes) + more, part, MAX_READS)
    reads: deque[Read] = deque()
    delivered = 0
    for item in list(range(len(sizes))) * 3:
        place = window.wanted(item)
        while not place.ready:
            while (read := window.next_read()) is not None:
                reads.append(read)
            reads.rotate(order.randrange(len(reads)))
            window.done(reads.popleft())
        delivered += place.size_bytes
        window.release(place)
    assert delivered == 3 * sum(sizes)


def test_it_reads_as_far_ahead_as_there_is_room_and_on_when_an_item_is_released() -> None:
    window = Window([4, 4, 4], 8, 4, max_reads=8)
    first, second = window.next_read(), window.next_read()
    assert first is not None
    assert second is not None
    assert (first.place.item, second.place.item, window.next_read()) == (0, 1, None)
    window.done(first)
    window.release(window.wanted(0))
    third = window.next_read()
    assert third is not None
    assert (third.place.item, third.ring_offset) == (2, 0)


def test_a_skipped_item_gives_its_room_only_when_its_read_has_ended() -> None:
    window = Window([4, 4, 4], 8, 4, max_reads=8)
    reads = [window.next_read(), window.next_read()]
    place = window.wanted(2)
    assert window.next_read() is None
    assert reads[0] is not None
    window.done(reads[0])
    read = window.next_read()
    assert read is not None
    assert read.place is place


def test_behind_an_error_nothing_is_read_until_it_was_met() -> None:
    window = Window([4, 4], 8, 2, max_reads=1)
    read = window.next_read()
    assert read is not None
    window.failed(read, LoadError("The disk is gone."))
    assert window.next_read() is None
    place = window.wanted(0)
    assert place.error is not None
    window.release(place)
    again = window.wanted(0)
    assert again.error is None
    assert window.next_read() is not None


def test_an_item_larger_than_the_ring_is_refused() -> None:
    with pytest.raises(ValueError, match="ring of 4"):
        Window([4, 5], 4, 1, 1)

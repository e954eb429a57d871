"""The window: which bytes of a ring hold which part of which item, and what may be read next. No I/O, no clock.

Items lie one behind the other in the ring, each in one piece, in the order in which a pass uses them. Positions count
on and on; the ring's own is the remainder. Bytes are free again when their item is released and nothing is being read
into them any more, always the oldest first.

    wanted(item)   the walker asks for an item: what lies before it is given up
    next_read()    a part that has room, or None; the caller reads it and answers with done() or failed()
    release(place) the walker has computed with it
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Place:
    """An item in the ring, being read, ready or given up."""

    item: int
    begin: int  # counts on and on
    size_bytes: int
    asked_bytes: int = 0  # handed out as reads
    read_bytes: int = 0
    in_flight: int = 0
    released: bool = False
    error: Exception | None = None

    @property
    def ready(self) -> bool:
        return self.read_bytes == self.size_bytes


@dataclass(frozen=True, slots=True)
class Read:
    """A part of an item to be read into the ring."""

    place: Place
    item_offset: int
    ring_offset: int
    size_bytes: int


@dataclass(slots=True)
class Window:
    sizes_bytes: Sequence[int]  # of the items that stream, in the order of a pass; none is empty
    ring_bytes: int
    read_bytes: int  # of one read
    max_reads: int  # in flight
    reads: int = 0
    _places: deque[Place] = field(default_factory=deque)  # oldest first
    _position: int = 0  # where the next item may begin
    _next_item: int = 0

    def __post_init__(self) -> None:
        if any(not 0 < size <= self.ring_bytes for size in self.sizes_bytes):
            raise ValueError(f"items of {list(self.sizes_bytes)} bytes in a ring of {self.ring_bytes}")

    def wanted(self, item: int) -> Place:
        """The place of `item`, now or soon. Items before it in the window were not needed; it need not be the next."""
        found = None
        for place in self._places:
            if not place.released:
                if place.item == item:
                    found = place
                    break
                place.released = True
        self._trim()
        return found or self._append(item)

    def release(self, place: Place) -> None:
        place.released = True
        self._trim()

    def next_read(self) -> Read | None:
        """Behind an item that could not be read nothing is read until the walker has met the error."""
        if self.reads >= self.max_reads or any(place.error for place in self._places if not place.released):
            return None
        place = self._places[-1] if self._places else None
        if place is None or place.released or place.asked_bytes == place.size_bytes:
            place = self._room_for_next()
            if place is None:
                return None
        size = min(self.read_bytes, place.size_bytes - place.asked_bytes)
        begin = place.begin + place.asked_bytes
        if begin + size > self._free_up_to():
            return None
        read = Read(place, place.asked_bytes, begin % self.ring_bytes, size)
        place.asked_bytes += size
        place.in_flight += 1
        self.reads += 1
        return read

    def done(self, read: Read) -> None:
        self._ended(read)
        read.place.read_bytes += read.size_bytes

    def failed(self, read: Read, error: Exception) -> None:
        self._ended(read)
        read.place.error = read.place.error or error

    def _ended(self, read: Read) -> None:
        read.place.in_flight -= 1
        self.reads -= 1
        self._trim()

    def _room_for_next(self) -> Place | None:
        """The next item's place, if the first read of it has room; never an item that is in the window already."""
        if sum(not place.released for place in self._places) >= len(self.sizes_bytes):
            return None
        size = self.sizes_bytes[self._next_item]
        begin = self._begin_of(size)
        if begin + min(self.read_bytes, size) > self._free_up_to(begin):
            return None
        return self._append(self._next_item)

    def _append(self, item: int) -> Place:
        size = self.sizes_bytes[item]
        place = Place(item, self._begin_of(size), size)
        self._places.append(place)
        self._position = place.begin + size
        self._next_item = (item + 1) % len(self.sizes_bytes)
        return place

    def _begin_of(self, size: int) -> int:
        """One piece: where it would run over the end of the ring, it begins anew."""
        left = self.ring_bytes - self._position % self.ring_bytes
        return self._position if size <= left else self._position + left

    def _free_up_to(self, empty: int = 0) -> int:
        """Positions below this one are free; `empty`: where the first place of an empty ring begins."""
        return (self._places[0].begin if self._places else empty) + self.ring_bytes

    def _trim(self) -> None:
        while self._places and self._places[0].released and self._places[0].in_flight == 0:
            self._places.popleft()

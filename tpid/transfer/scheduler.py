"""Which piece is asked of which source, and which source is asked no more. Pure: `now` is an argument.

Every source has some pieces asked of it at any time, so the quick ones give more. At the end, what a source owes for
long is asked of a second one too. A source that sends what is not the piece, sends nothing, or is far slower than
another is dropped, with the reason; what it owed others give.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from tpid.device import DeviceId
from tpid.pack.pieces import Piece
from tpid.size import shown_size

WINDOW_BYTES: Final = 4 << 20  # asked of one source at a time, where that is more than one piece
SILENT_S: Final = 5.0  # a source that owes something and sends no byte for so long is dropped
TWICE_S: Final = 2.0  # what a source owes for so long is asked of an idle one as well
SLOW_AFTER_S: Final = 5.0  # of asking, before a source's speed is compared
SLOWER: Final = 16.0  # so many times slower than the quickest: it would only delay the end

Has: TypeAlias = Callable[[Piece], bool]


@dataclass(frozen=True, slots=True)
class Ask:
    source: DeviceId
    piece: Piece


@dataclass(frozen=True, slots=True)
class Drop:
    """Ask nothing more of the source, for a while."""

    source: DeviceId
    reason: str  # goes on from the device's name
    is_corrupt: bool = False


Action: TypeAlias = Ask | Drop


@dataclass(slots=True)
class _Source:
    has: Has
    owed: dict[Piece, float] = field(default_factory=dict)  # since when
    owed_bytes: int = 0
    here: set[Piece] = field(default_factory=set)  # of what it owes: what is being checked and written
    heard_s: float = 0.0  # the last byte, or the first question after it owed nothing
    busy_s: float = 0.0  # in which it owed something
    sent_bytes: int = 0  # in that time
    looked_s: float = 0.0


class Scheduler:
    """Of one share."""

    def __init__(self, wanted: Mapping[Piece, int]) -> None:
        """`wanted`: the pieces that are missing, in the order in which they shall come, and their sizes."""
        self._sizes = dict(wanted)
        self._pending: deque[Piece] = deque(wanted)
        self._left = set(wanted)
        self._sources: dict[DeviceId, _Source] = {}

    @property
    def done(self) -> bool:
        return not self._left

    @property
    def sources(self) -> Sequence[DeviceId]:
        return tuple(self._sources)

    @property
    def stuck(self) -> bool:
        """Whether nothing that is missing is to be had from the sources that are there."""
        return not any(source.has(piece) for source in self._sources.values() for piece in self._left)

    def source_up(self, source: DeviceId, has: Has, now: float) -> list[Action]:
        """`has`: whether it has a piece; asked while it is a source. What it owed before, it owes no more."""
        self._forget(source)
        self._sources[source] = _Source(has, looked_s=now)
        return self._ask(now)

    def source_lost(self, source: DeviceId, now: float) -> list[Action]:
        """What it owed others give."""
        self._forget(source)
        return self._ask(now)

    def heard(self, source: DeviceId, n_bytes: int, now: float) -> None:
        """So many bytes more came from it."""
        state = self._sources.get(source)
        if state is not None:
            state.heard_s = now
            state.sent_bytes += n_bytes

    def came(self, source: DeviceId, piece: Piece) -> None:
        """All bytes of it are here; how long it takes to write them is not the source's fault."""
        state = self._sources.get(source)
        if state is not None and piece in state.owed:
            state.here.add(piece)

    def is_wanted(self, piece: Piece) -> bool:
        return piece in self._left

    def arrived(self, source: DeviceId, piece: Piece, now: float) -> list[Action]:
        """The piece is here, and genuine."""
        self._left.discard(piece)
        self._paid(source, piece, now)
        return self._ask(now)

    def not_given(self, source: DeviceId, piece: Piece, now: float) -> list[Action]:
        """It says that it lacks it, whatever it said before."""
        state = self._sources.get(source)
        if state is None:
            return []
        self._paid(source, piece, now)
        had = state.has
        state.has = lambda other: other != piece and had(other)
        self._want_again(piece)
        return self._ask(now)

    def corrupt(self, source: DeviceId, piece: Piece, now: float) -> list[Action]:
        """What it sent is not the piece."""
        if source not in self._sources:
            return []
        self._forget(source)
        return [Drop(source, f"sent a damaged {piece}", is_corrupt=True), *self._ask(now)]

    def tick(self, now: float) -> list[Action]:
        """To be called about once a second."""
        actions: list[Action] = []
        for id, state in list(self._sources.items()):
            if state.owed:
                state.busy_s += now - state.looked_s
            state.looked_s = now
            if len(state.owed) > len(state.here) and now - state.heard_s >= SILENT_S:
                actions += self._drop(id, f"has sent nothing for {now - state.heard_s:.0f} s", now)
        rates = {id: s.sent_bytes / s.busy_s for id, s in self._sources.items() if s.busy_s >= SLOW_AFTER_S}
        best = max(rates.values(), default=0.0)
        for id, rate in rates.items():
            state = self._sources[id]
            if rate * SLOWER < best and state.owed and self._others_have(id):
                reason = f"sends {shown_size(round(rate))}/s where another sends {shown_size(round(best))}/s"
                actions += self._drop(id, reason, now)
        return actions + self._ask(now)

    def _ask(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for id, state in self._sources.items():
            while (piece := self._next_for(state)) is not None:
                actions.append(self._ask_of(id, piece, now))
            if not state.owed and not self._pending and (piece := self._owed_for_long(id, now)) is not None:
                actions.append(self._ask_of(id, piece, now))
        return actions

    def _next_for(self, state: _Source) -> Piece | None:
        """The first pending piece that it has, where it has room for one more."""
        for index, piece in enumerate(self._pending):
            if state.owed and state.owed_bytes + self._sizes[piece] > WINDOW_BYTES:
                return None
            if state.has(piece):
                del self._pending[index]
                return piece
        return None

    def _owed_for_long(self, source: DeviceId, now: float) -> Piece | None:
        """Of another source, and of nobody else."""
        here = {piece for state in self._sources.values() for piece in state.here}
        owed = [
            (since, piece)
            for id, state in self._sources.items()
            if id != source
            for piece, since in state.owed.items()
            if piece not in here
        ]
        for since, piece in sorted(owed, key=lambda item: item[0]):
            if now - since < TWICE_S:
                return None
            if self._sources[source].has(piece) and sum(piece in s.owed for s in self._sources.values()) == 1:
                return piece
        return None

    def _ask_of(self, id: DeviceId, piece: Piece, now: float) -> Ask:
        state = self._sources[id]
        if not state.owed:
            state.heard_s = state.looked_s = now
        state.owed[piece] = now
        state.owed_bytes += self._sizes[piece]
        return Ask(id, piece)

    def _paid(self, source: DeviceId, piece: Piece, now: float) -> None:
        state = self._sources.get(source)
        if state is None or state.owed.pop(piece, None) is None:
            return
        state.here.discard(piece)
        state.owed_bytes -= self._sizes[piece]
        if not state.owed:
            state.busy_s += now - state.looked_s
            state.looked_s = now

    def _drop(self, source: DeviceId, reason: str, now: float) -> list[Action]:
        self._forget(source)
        return [Drop(source, reason), *self._ask(now)]

    def _forget(self, source: DeviceId) -> None:
        state = self._sources.pop(source, None)
        for piece in reversed(list(state.owed) if state is not None else []):
            self._want_again(piece)

    def _want_again(self, piece: Piece) -> None:
        if piece in self._left and not any(piece in state.owed for state in self._sources.values()):
            self._pending.appendleft(piece)

    def _others_have(self, source: DeviceId) -> bool:
        """Whether nothing is lost with it."""
        others = [state for id, state in self._sources.items() if id != source]
        return all(any(other.has(piece) for other in others) for piece in self._left)

"""Getting the units of a share from the other devices of the home, before the share is loaded."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tpid.comm.tls_channel import TlsChannel
from tpid.device import DeviceId, DeviceProfile
from tpid.errors import DeviceLostError, DiskFullError, PackError, RemoteProtocolError, TpidError, UnitsError
from tpid.pack.geometry import Share
from tpid.pack.holed import HoledPack
from tpid.pack.manifest import MAX_MANIFEST_BYTES, PackId
from tpid.pack.pieces import Piece
from tpid.pack.presence import MAX_PRESENCE_BYTES, Presence
from tpid.pack.staging import FREE_SPACE_HINT, is_full
from tpid.pack.unit_store import UnitStore
from tpid.size import shown_size
from tpid.transfer.asking import AskingLine
from tpid.transfer.scheduler import Action, Ask, Drop, Scheduler
from tpid.transfer.wire import Question, What, question_for

TICK_S: Final = 0.5
NO_SOURCE_S: Final = 10.0  # nobody has what is missing: for so long one may come back
ANSWER_S: Final = 10.0  # for the manifest, and for the map of units
LOST_S: Final = 2.0  # until a source whose connection was lost is tried again
AVOID_S: Final = 60.0  # one that is slow, or says nothing
AVOID_CORRUPT_S: Final = 600.0  # one that sends damaged units
SAVE_S: Final = 5.0  # what has come since is fetched anew after a power cut
MAX_WRITES: Final = 4  # pieces that are checked and written at a time

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # bytes that have come, bytes in all
Dial = Callable[[DeviceId], Awaitable[TlsChannel]]
Peers = Callable[[], Sequence[DeviceProfile]]


@dataclass(frozen=True, slots=True)
class Fetching:
    """What is being fetched, for status."""

    pack: PackId
    done_bytes: int
    total_bytes: int
    sources: tuple[str, ...]  # names
    avoided: Mapping[str, str]  # names, and why


class Fetcher:
    """Of one device; one share at a time."""

    def __init__(self, store: UnitStore, peers: Peers, dial: Dial) -> None:
        """`peers`: the devices that are connected now. `dial` raises TpidError."""
        self._store = store
        self._peers = peers
        self._dial = dial
        self._avoided: dict[DeviceId, tuple[float, str, str]] = {}  # until, name, why
        self._now: _Fetch | None = None

    @property
    def fetching(self) -> Fetching | None:
        if self._now is None:
            return None
        return self._now.shown(self.avoided)

    @property
    def avoided(self) -> dict[str, str]:
        """Names of the devices of which nothing is asked now, and why."""
        return {name: why for until, name, why in self._avoided.values() if until > time.monotonic()}

    async def complete(
        self, pack: PackId, share: Share, progress: Progress, keep: Collection[PackId] = ()
    ) -> HoledPack:
        """The pack with all that a worker with `share` reads. What came stays, however this ends.

        Of other packs' units, those of `keep` do not go where room is wanted.

        Raises DiskFullError, UnitsError where nobody gives what is missing, PackError where another writes into it.
        """
        async with _Lines(self._peers, self._dial, pack, self) as lines:
            held = await asyncio.to_thread(self._store.find, pack)
            if held is None:
                held = await self._begin(lines, pack)
            missing = await asyncio.to_thread(held.missing, share)
            if missing:
                with held.held():
                    gone = await asyncio.to_thread(self._store.make_room, sum(missing.values()), {held.id, *keep})
                    log.info("fetching pack=%s pieces=%d removed=%d", held.id[:12], len(missing), len(gone))
                    await self._get(lines, held, missing, progress)
        held.touch()
        return held

    def avoid(self, device: DeviceId, name: str, reason: str, seconds: float) -> None:
        """Nothing is asked of it for a while."""
        log.warning("source_avoided device=%s seconds=%.0f reason=%r", name, seconds, reason)
        self._avoided[device] = time.monotonic() + seconds, name, reason

    def is_avoided(self, device: DeviceId) -> bool:
        return device in self._avoided and time.monotonic() < self._avoided[device][0]

    async def _begin(self, lines: "_Lines", pack: PackId) -> HoledPack:
        """A new pack, all holes, by the manifest that any of the sources gives."""
        deadline_s = time.monotonic() + NO_SOURCE_S
        while True:
            await asyncio.gather(*map(lines.call, lines.wanted()))
            for id, line in list(lines.up.items()):
                try:
                    async with asyncio.timeout(ANSWER_S):
                        manifest = await line.ask(Question(pack, What.MANIFEST), MAX_MANIFEST_BYTES)
                    if manifest is not None:
                        return await asyncio.to_thread(self._store.create, pack, bytes(manifest))
                except TimeoutError:
                    lines.drop(id, f"has not answered for {ANSWER_S:.0f} s", AVOID_S)
                except OSError as error:
                    raise _not_written(error) from error
                except TpidError as error:
                    lines.drop(id, error.message, _seconds(error))
            if time.monotonic() > deadline_s:
                raise UnitsError("No device that is connected gives the units of this model.", hint=lines.why_none())
            await asyncio.sleep(TICK_S)

    async def _get(self, lines: "_Lines", held: HoledPack, missing: Mapping[Piece, int], progress: Progress) -> None:
        self._now = _Fetch(lines, held, missing, progress)
        try:
            await self._now.run()
        finally:
            self._now = None


class _Lines:
    """Connections to the sources of one pack, made as they are needed, closed at the end."""

    def __init__(self, peers: Peers, dial: Dial, pack: PackId, owner: Fetcher) -> None:
        self._peers = peers
        self._dial = dial
        self._pack = pack
        self._owner = owner
        self._names: dict[DeviceId, str] = {}
        self._called: set[DeviceId] = set()  # not up yet
        self.up: dict[DeviceId, AskingLine] = {}

    async def __aenter__(self) -> "_Lines":
        return self

    async def __aexit__(self, *_: object) -> None:
        for line in self.up.values():
            line.close()

    def name_of(self, device: DeviceId) -> str:
        return self._names.get(device, device[:12])

    def wanted(self) -> list[DeviceProfile]:
        """Devices that have something of the pack and are still to be called."""
        known = self.up.keys() | self._called
        wanted = [peer for peer in self._peers() if peer.id not in known and self._has_some(peer)]
        return [peer for peer in wanted if not self._owner.is_avoided(peer.id)]

    async def call(self, peer: DeviceProfile) -> AskingLine | None:
        """None where it cannot be reached: then it is avoided for a while."""
        self._names[peer.id] = peer.name
        self._called.add(peer.id)
        try:
            line = self.up[peer.id] = AskingLine(await self._dial(peer.id), peer.name)
        except TpidError as error:
            self.drop(peer.id, error.message, _seconds(error))
            return None
        finally:
            self._called.discard(peer.id)
        return line

    def drop(self, device: DeviceId, reason: str, seconds: float) -> None:
        self._owner.avoid(device, self.name_of(device), reason, seconds)
        line = self.up.pop(device, None)
        if line is not None:
            line.close()

    def why_none(self) -> str:
        """Of each device that could not be asked."""
        return "; ".join(f"{name}: {reason}" for name, reason in self._owner.avoided.items())

    def _has_some(self, peer: DeviceProfile) -> bool:
        return self._pack in peer.packs or any(held.pack == self._pack for held in peer.units)


class _Fetch:
    """The scheduler's shell: asks, checks, writes, and saves what has come."""

    def __init__(self, lines: _Lines, held: HoledPack, missing: Mapping[Piece, int], progress: Progress) -> None:
        self._lines = lines
        self._held = held
        self._sizes = missing
        self._progress = progress
        self._scheduler = Scheduler(missing)
        self._total_bytes = sum(missing.values())
        self._done_bytes = 0
        self._saved_s = time.monotonic()
        self._writes = asyncio.Semaphore(MAX_WRITES)
        self._woken = asyncio.Event()
        self._error: TpidError | None = None
        self._tasks: asyncio.TaskGroup

    def shown(self, avoided: Mapping[str, str]) -> Fetching:
        names = tuple(self._lines.name_of(id) for id in self._scheduler.sources)
        return Fetching(self._held.id, self._done_bytes, self._total_bytes, names, avoided)

    async def run(self) -> None:
        """Until all is here. Raises DiskFullError, UnitsError."""
        self._progress(0, self._total_bytes)
        try:
            async with asyncio.TaskGroup() as self._tasks:
                looking = self._tasks.create_task(self._keep_sources(), name="sources")
                try:
                    await self._until_done()
                finally:
                    looking.cancel()
                    self._lines_down()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            await asyncio.shield(asyncio.to_thread(self._save))

    async def _until_done(self) -> None:
        stuck_since_s: float | None = None
        while not self._scheduler.done:
            self._woken.clear()
            try:
                async with asyncio.timeout(TICK_S):
                    await self._woken.wait()
            except TimeoutError:
                pass
            if self._error is not None:
                raise self._error
            now = time.monotonic()
            self._perform(self._scheduler.tick(now))
            if not self._scheduler.stuck:
                stuck_since_s = None
                continue
            stuck_since_s = stuck_since_s or now
            if now - stuck_since_s > NO_SOURCE_S and not self._scheduler.done:
                left = shown_size(self._total_bytes - self._done_bytes)
                reason = f"No device that is connected gives the {left} of the model that are missing here."
                raise UnitsError(reason, hint=self._lines.why_none())

    async def _keep_sources(self) -> None:
        """Each joins when it answers: none waits for another."""
        for id, line in list(self._lines.up.items()):
            self._tasks.create_task(self._take_in(id, line), name="source")
        while True:
            for peer in self._lines.wanted():
                self._tasks.create_task(self._join(peer), name="source")
            await asyncio.sleep(TICK_S)

    async def _join(self, peer: DeviceProfile) -> None:
        line = await self._lines.call(peer)
        if line is not None:
            await self._take_in(peer.id, line)

    async def _take_in(self, id: DeviceId, line: AskingLine) -> None:
        """Learn what it has; from then on it is asked."""
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await line.ask(Question(self._held.id, What.PRESENCE), MAX_PRESENCE_BYTES)
            if answer is None:
                raise UnitsError("it has nothing of this model any more")
            has = Presence.decode(bytes(answer), self._held.pack.manifest, f"the map of {line.name}")
        except TimeoutError:
            self._lines.drop(id, f"has not answered for {ANSWER_S:.0f} s", AVOID_S)
        except TpidError as error:
            self._lines.drop(id, error.message, _seconds(error))
        else:
            line.heard = lambda n_bytes: self._scheduler.heard(id, n_bytes, time.monotonic())
            self._perform(self._scheduler.source_up(id, has.__contains__, time.monotonic()))

    def _perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Ask(source, piece):
                    line = self._lines.up.get(source)
                    if line is not None:  # else its loss is about to be told
                        answer = line.ask(question_for(self._held.id, piece), self._sizes[piece])
                        self._tasks.create_task(self._take(source, piece, answer), name="piece")
                case Drop(source, reason, is_corrupt):
                    self._lines.drop(source, reason, AVOID_CORRUPT_S if is_corrupt else AVOID_S)

    async def _take(self, source: DeviceId, piece: Piece, answer: "asyncio.Future[bytearray | None]") -> None:
        try:
            data = await answer
        except TpidError as error:
            if source in self._scheduler.sources:
                self._lines.drop(source, error.message, _seconds(error))
                self._perform(self._scheduler.source_lost(source, time.monotonic()))
            return
        if data is None:
            self._perform(self._scheduler.not_given(source, piece, time.monotonic()))
            return
        if self._scheduler.is_wanted(piece):
            self._scheduler.came(source, piece)
            async with self._writes:
                try:
                    genuine = await asyncio.to_thread(self._put, piece, data)
                except OSError as error:
                    self._error = _not_written(error)
                    self._woken.set()
                    return
            if not genuine:
                self._perform(self._scheduler.corrupt(source, piece, time.monotonic()))
                return
            if self._scheduler.is_wanted(piece):
                self._held.presence.add(piece)
                self._done_bytes += len(data)
                self._progress(self._done_bytes, self._total_bytes)
        self._perform(self._scheduler.arrived(source, piece, time.monotonic()))
        if self._scheduler.done:
            self._woken.set()
        elif time.monotonic() - self._saved_s > SAVE_S:
            self._saved_s = time.monotonic()
            await asyncio.to_thread(self._save)

    def _put(self, piece: Piece, data: bytearray) -> bool:
        """Whether it is the piece, which then lies in its place."""
        if len(data) != self._sizes[piece] or not self._held.is_genuine(piece, data):
            return False
        self._held.write(piece, data)
        return True

    def _save(self) -> None:
        try:
            self._held.save(self._held.presence.encode())
        except OSError as error:
            log.warning("units_not_saved pack=%s reason=%r", self._held.id[:12], str(error))

    def _lines_down(self) -> None:
        """Every answer that is still awaited ends."""
        for id in list(self._scheduler.sources):
            self._scheduler.source_lost(id, time.monotonic())
        for line in self._lines.up.values():
            line.close()


def _seconds(error: TpidError) -> float:
    """For which a source is avoided."""
    if isinstance(error, DeviceLostError):
        return LOST_S
    return AVOID_CORRUPT_S if isinstance(error, RemoteProtocolError | PackError) else AVOID_S


def _not_written(error: OSError) -> TpidError:
    if is_full(error):
        return DiskFullError("The disk became full while units came from other devices.", hint=FREE_SPACE_HINT)
    return UnitsError(f"Units cannot be written to {error.filename or 'the disk'}: {error.strerror}.")

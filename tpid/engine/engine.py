"""What the API sees of everything below: answers to chats, loaded models, and the state of it all."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from tpid.cluster.cluster import Cluster
from tpid.comm.connection import Connection
from tpid.comm.messages import (
    Abort,
    Device,
    DiskUse,
    Failed,
    Fetch,
    Kind,
    Links,
    Load,
    Loaded,
    Message,
    Progress,
    Unload,
)
from tpid.comm.tensors import StartHeader, TensorHeader
from tpid.compute.select import Compute
from tpid.device import DeviceId
from tpid.engine.authority import COORDINATOR_KINDS, WORKER_KINDS, Phase, Standing, permits
from tpid.engine.compute_calls import ComputeCalls
from tpid.engine.coordinator import Coordinator
from tpid.engine.generation import Event, Finished, GenerationRequest, GenerationStats, generate
from tpid.engine.inventory import inventory
from tpid.engine.journal import Journal
from tpid.engine.link_book import LinkBook
from tpid.engine.pace import Pace
from tpid.engine.pack_source import PackSource
from tpid.engine.planning import Preview, preview, with_memory
from tpid.engine.runner import Runner
from tpid.engine.settings import EngineSettings
from tpid.engine.speed_keeper import SpeedKeeper
from tpid.engine.tally import Tally
from tpid.engine.text_owner import ModelText, text_source
from tpid.engine.weight_use import WeightUse
from tpid.engine.work import Work
from tpid.engine.worker import Holding, Worker
from tpid.errors import BusyError, TpidError
from tpid.memory.weights import LoadProgress
from tpid.pack.reader import Pack
from tpid.pack.store import PackStore
from tpid.plan.network import Network
from tpid.plan.plan import Plan, plan_from_wire
from tpid.transfer.fetching import Fetching
from tpid.transfer.units import Units

log = logging.getLogger(__name__)

MAX_HELD_BYTES = 1 << 25  # of prompts that run or wait, as they came; in memory they take some times as much
IDLE_S: Final = 1.0  # without a step of compute: between two tokens there is less


@dataclass(frozen=True, slots=True)
class EngineStatus:
    plan: Plan | None  # that this device coordinates
    holding: Holding | None  # what this device holds as a worker
    busy: bool
    waiting_requests: int
    last: GenerationStats | None
    weights: Mapping[DeviceId, WeightUse]  # of the plan's ranks
    work: Work | None = None  # whose turn it is
    written_tokens: int = 0  # since the daemon began
    tally: Tally = field(default_factory=Tally)  # goes on counting
    streamed_bytes: int = 0  # of weights that this device has read from disk for passes, so far
    fetching: Fetching | None = None  # what this device gets from others now
    # Devices that do so for the plan being loaded, by name: bytes, of bytes.
    fetches: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def no_progress(done_bytes: int, total_bytes: int) -> None:
    return None


class Engine:
    """Runs one request after the other; also the handler of the cluster's frames (`tpid.cluster.cluster.Handler`)."""

    def __init__(
        self,
        cluster: Cluster,
        store: PackStore,
        compute: Compute,
        settings: EngineSettings,
        *,
        link_book: LinkBook | None = None,
        units: Units | None = None,
    ) -> None:
        """`link_book`: what is known of the links, where it is known otherwise than by measuring. `units`: how shares
        come from other devices, and go to them; None: not at all."""
        self._cluster = cluster
        self._store = store
        self._settings = settings
        self._speed = SpeedKeeper(cluster, compute, self._is_idle)
        self._calls = ComputeCalls(self._speed.decoded)
        self._units = units
        self._rescan = asyncio.Event()
        self._packs_there: dict[DeviceId, tuple[str, ...]] = {}  # as the other devices told it last
        self._packs = PackSource(store, units, self._rescan.set)
        self._worker = Worker(cluster.me, self._packs, compute, self._calls, lambda: cluster.peers)
        self._link_book = link_book or LinkBook(cluster.me.id, lambda: cluster.peers, self._is_idle)
        self._coordinator = Coordinator(cluster, compute, self._calls, settings, self._link_book)
        self._turn = asyncio.Lock()
        self._line: list[Work] = []  # running and waiting, in the order in which they came
        self._held_bytes = 0  # of their prompts
        self._pace = Pace()
        self._written_tokens = 0  # for requests that have ended
        self._text: tuple[str, ModelText] | None = None
        self._last: GenerationStats | None = None
        self._tally = Tally()
        self.journal = Journal()
        if units is not None:
            units.is_busy = self._computes

    async def run(self) -> None:
        """Serves as a worker until cancelled; lets everything go at the end."""
        self._rescan.set()  # what is here of packs with holes is not told yet
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._worker.run(), name="worker")
                tasks.create_task(self._keep_packs_known(), name="packs")
                tasks.create_task(self._link_book.run(), name="links")
                tasks.create_task(self._speed.run(), name="speed")
        finally:
            self._coordinator.drop("the daemon stops")
            self._calls.close()
            if self._units is not None:
                await self._units.close()
            if self._text is not None:
                await self._text[1].close()

    async def load(self, model: str, progress: LoadProgress = no_progress) -> Plan:
        """Have `model` ready on the cluster. Raises TpidError."""
        work = Work(model)

        def loaded(done_bytes: int, total_bytes: int) -> None:
            work.loading(done_bytes, total_bytes)
            progress(done_bytes, total_bytes)

        async with self._turn_of(work, loaded) as runner:
            return (await runner.executor()).plan

    async def unload(self) -> str | None:
        """Let go of the model that this device coordinates; gives its name. Raises BusyError while it answers."""
        if self._turn.locked():
            raise BusyError("A request runs at this moment.", hint="Wait until it has ended, or end it.")
        async with self._turn:
            plan = self.status().plan
            self._coordinator.drop("its owner asked for it")
            if self._text is not None:
                (_, text), self._text = self._text, None
                await text.close()
            return plan.model if plan is not None else None

    async def preview(self, model: str, memory_bytes: int | None, context_tokens: int | None) -> Preview:
        """What a request to `model` would be planned with over the devices that are connected; loads nothing.

        As if this device's budget and the longest context were these, where they are given. Raises TpidError.
        """
        pack = self._store.open(model)
        settings = self._settings if context_tokens is None else replace(self._settings, context_tokens=context_tokens)
        peers = [connection.peer for connection in self._cluster.peers.values()]
        me = with_memory(self._cluster.me, memory_bytes)
        return await asyncio.to_thread(preview, pack, settings, me, peers, self._link_book.network)

    async def answer(
        self, model: str, request: GenerationRequest, work: Work | None = None
    ) -> AsyncGenerator[Event, None]:
        """All answers to a request, each to its Finished; `work` is told how far it is. Close the iterator to cancel.

        Raises TpidError.
        """
        asked = time.perf_counter()
        work = work or Work(model)
        with self._tally.request() as running:
            async with self._turn_of(work, work.loading, request.size_bytes) as runner:
                queue_s = time.perf_counter() - asked
                request = replace(request, sampling=runner.pack.sampling_defaults.fill(request.sampling))
                async with aclosing(self._answers(runner, request, work)) as events:
                    async for index, event in events:
                        if not isinstance(event, Finished):
                            yield event
                            continue
                        self._last = replace(event.stats, queue_s=queue_s)
                        self._tally.answer(self._last, is_first=index == 0)
                        running.answered = index == request.n - 1
                        yield replace(event, stats=self._last)

    async def _answers(
        self, runner: Runner, request: GenerationRequest, work: Work
    ) -> AsyncGenerator[tuple[int, Event], None]:
        """What is said, and in which of the request's answers."""
        text_model = await self._text_model(runner.pack)
        context_tokens = (await runner.executor()).plan.context_tokens
        for index in range(request.n):
            async with aclosing(generate(runner, text_model, request.choice(index), context_tokens, work)) as events:
                async for event in events:
                    yield index, event

    @property
    def network(self) -> Network:
        """The links of the home, as they were measured."""
        return self._link_book.network

    async def tell_packs(self) -> None:
        """Look at the disk again and tell the others which packs are here."""
        here = await asyncio.to_thread(inventory, self._store, self._units)
        self._cluster.update_profile(replace(self._cluster.me, **here))

    def status(self) -> EngineStatus:
        executor = self._coordinator.executor
        if executor is not None and executor.failure is not None:
            executor = None
        return EngineStatus(
            plan=executor.plan if executor is not None else None,
            holding=self._worker.holding,
            busy=self._turn.locked(),
            waiting_requests=max(len(self._line) - 1, 0),
            last=self._last,
            weights=executor.weight_use if executor is not None else {},
            tally=self._tally,
            streamed_bytes=self._calls.streamed_bytes,
            fetching=self._units.fetching if self._units is not None else None,
            fetches=self._coordinator.fetches,
            work=self._line[0] if self._line else None,
            written_tokens=self._written_tokens + sum(work.n_written for work in self._line),
        )

    # --- handler of the cluster's frames

    def payload_buffer(
        self, connection: Connection, kind: Kind, header: StartHeader | TensorHeader, size_bytes: int
    ) -> memoryview | None:
        if not self._permits(connection, kind):
            self._tell_ignored(connection, kind)
            return None
        if isinstance(header, StartHeader):
            return self._worker.start_buffer(connection, header, size_bytes)
        if kind is Kind.PARTIAL:
            return self._coordinator.partial_buffer(connection, header, size_bytes)
        return self._worker.tensor_buffer(kind, connection, header, size_bytes)

    def received(
        self,
        connection: Connection,
        kind: Kind,
        message: Message | StartHeader | TensorHeader,
        payload: memoryview | None,
    ) -> None:
        if not self._permits(connection, kind):
            self._tell_ignored(connection, kind)
            if isinstance(message, Load):  # its sender waits for an answer
                self._worker.received(connection, message)
            return
        match message:
            case TensorHeader() if kind is Kind.PARTIAL:
                self._coordinator.partial(connection, message, payload)
            case TensorHeader():
                self._worker.tensor(kind, connection, message, payload)
            case StartHeader():
                self._worker.start(connection, message, payload)
            case Fetch():
                self._fetch_ahead(message)
            case Load() | Unload() | Abort():
                self._worker.received(connection, message)
            case Loaded() | Failed() | DiskUse() | Progress():
                self._coordinator.received(connection, message)
            case Links():
                self._link_book.heard(connection.peer.id, message)
            case Device(profile=profile) if self._packs_there.get(connection.peer.id) != profile.packs:
                self._packs_there[connection.peer.id] = profile.packs
                self._rescan.set()  # one may have come into a directory that both devices use

    def peer_joined(self, connection: Connection) -> None:
        self.journal.joined(connection.peer.id, connection.peer.name)
        self._link_book.joined(connection)

    def peer_lost(self, connection: Connection, error: TpidError) -> None:
        self._packs_there.pop(connection.peer.id, None)
        in_plan = self._coordinator.standing(connection) is Standing.RANK
        self.journal.lost(connection.peer.id, connection.peer.name, error.message, in_plan=in_plan)
        self._link_book.lost(connection.peer.id)
        self._worker.peer_lost(connection, error)
        self._coordinator.peer_lost(connection, error)

    def lease_lost(self, reason: str) -> None:
        self._coordinator.drop(reason)

    def lease_changed(self) -> None:
        self._worker.lease_is_of(self._cluster.coordinator)
        self._coordinator.lease_changed()

    def _is_idle(self) -> bool:
        """Whether what is measured now is the link and not this device's cores or disk."""
        quiet = {self._worker.phase, self._coordinator.phase} <= {Phase.IDLE, Phase.READY}
        return quiet and self._calls.idle_s >= IDLE_S

    def _computes(self) -> bool:
        """Whether a pass runs here, or did so a moment ago."""
        return Phase.PASS in (self._worker.phase, self._coordinator.phase) or self._calls.idle_s < IDLE_S

    def _fetch_ahead(self, message: Fetch) -> None:
        """Raises RemoteProtocolError."""
        plan, me = plan_from_wire(message.plan), self._cluster.me
        rank = plan.rank_of(me.id)
        if me.fetches_units and rank and plan.pack not in me.packs:
            self._packs.begin(plan.pack, plan.ranks[rank].share)

    def _permits(self, connection: Connection, kind: Kind) -> bool:
        """Whether the frame may change anything: `tpid.engine.authority`."""
        party = self._party_of(kind)
        return party is None or permits(kind, party.standing(connection), party.phase)

    def _party_of(self, kind: Kind) -> Worker | Coordinator | None:
        """None for what concerns neither."""
        if kind in WORKER_KINDS:
            return self._worker
        return self._coordinator if kind in COORDINATOR_KINDS else None

    def _tell_ignored(self, connection: Connection, kind: Kind) -> None:
        """What comes too late from one of the plan is daily bread; from one that has no part in it, it is not."""
        party = self._party_of(kind)
        if party is None:
            return
        standing, name = party.standing(connection), connection.peer.name
        level = logging.INFO if standing is Standing.MEMBER else logging.DEBUG
        log.log(level, "ignored kind=%s peer=%s standing=%s phase=%s", kind.name, name, standing, party.phase)

    @asynccontextmanager
    async def _turn_of(self, work: Work, progress: LoadProgress, size_bytes: int = 0) -> AsyncIterator[Runner]:
        """This device's turn: nobody else's request runs meanwhile, and the lease stays here."""
        pack = self._store.open(work.model)
        n_requests = len(self._line)
        is_full = n_requests > self._settings.max_waiting_requests
        if is_full or (n_requests and self._held_bytes + size_bytes > MAX_HELD_BYTES):
            after_s = self._pace.until_free_s(n_requests)
            raise BusyError(
                f"{n_requests} requests are waiting already.",
                hint=f"Try again in {after_s} s.",
                retry_after_s=after_s,
            )
        work.queued(n_requests)
        self._line.append(work)
        self._held_bytes += size_bytes
        try:
            async with self._turn, self._pace.one_request():
                await self._cluster.acquire("prompt", self._settings.cluster_wait_s)
                work.loading()
                try:  # busy: the lease stays here until the request has ended
                    yield Runner(self._coordinator, pack, progress, self.journal)
                finally:
                    self._cluster.set_busy(False)
        finally:
            self._leave_line(work)
            self._held_bytes -= size_bytes

    def _leave_line(self, work: Work) -> None:
        """Those behind it move up."""
        place = self._line.index(work)
        del self._line[place]
        self._written_tokens += work.n_written
        for ahead, waiting in enumerate(self._line[place:], start=place):
            waiting.queued(ahead)

    async def _keep_packs_known(self) -> None:
        while True:
            await self._rescan.wait()
            self._rescan.clear()
            try:
                await self.tell_packs()
            except (TpidError, OSError) as error:
                log.warning("packs_unknown directory=%s reason=%r", self._store.directory, str(error))

    async def _text_model(self, pack: Pack) -> ModelText:
        if self._text is None or self._text[0] != pack.id:
            if self._text is not None:
                await self._text[1].close()
                self._text = None
            source = await asyncio.to_thread(text_source, pack)
            self._text = (pack.id, await ModelText.open(source))
        return self._text[1]

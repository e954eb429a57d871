"""Making a plan real: the lease, the plan over the devices that gave theirs, every rank loaded."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from tpid.cluster.cluster import Cluster
from tpid.comm.connection import Connection
from tpid.comm.messages import DiskUse, Failed, Fetch, Kind, Load, Loaded, Progress, Unload
from tpid.comm.tensors import TensorHeader
from tpid.compute.select import Compute
from tpid.device import DeviceId, DeviceProfile
from tpid.engine.ahead import Plans, has_come, plan_now_and_later
from tpid.engine.authority import Phase, Standing
from tpid.engine.compute_calls import ComputeCalls
from tpid.engine.executor import Executor
from tpid.engine.link_book import LinkBook
from tpid.engine.loaded import LoadedShare, load_share
from tpid.engine.planning import plan_in_time, plan_request
from tpid.engine.rank_watch import LOOK_S, RankWatch
from tpid.engine.settings import EngineSettings
from tpid.engine.weight_use import WeightUse
from tpid.engine.worker_machine import LEASE_ENDED
from tpid.errors import (
    DeviceLostError,
    LoadError,
    NotCoordinatorError,
    PackError,
    RankFailedError,
    RemoteProtocolError,
    TpidError,
)
from tpid.memory.weights import LoadProgress
from tpid.pack.reader import Pack
from tpid.plan.partition import PlanRequest
from tpid.plan.plan import Plan, plan_to_wire

log = logging.getLogger(__name__)

# Codes of FAILED by which a device says that it is well and the plan is old, or a link of it: it does not sit out.
_NO_FAULT: Final = (LEASE_ENDED, NotCoordinatorError.code, DeviceLostError.code)
# After a link between two workers was lost, plans do without these links: they may be lost again.
_STAR_ONLY_S: Final = 60.0
# One device has become so many times slower than another since the plan was made: what other shares gain is then worth
# that weights are loaded and a conversation is computed anew. Where all have become slower, shares stay.
_SHARES_CHANGE: Final = 1.5


@dataclass(slots=True)
class _Loading:
    """A plan whose workers have been told to load."""

    plan: Plan
    ready: dict[DeviceId, asyncio.Future[WeightUse]]
    watch: RankWatch
    fetches: dict[str, tuple[int, int]] = field(default_factory=dict)  # by name of the device: bytes, of bytes


class Coordinator:
    """At most one executor; it is made anew when the model or the devices have changed."""

    def __init__(
        self,
        cluster: Cluster,
        compute: Compute,
        calls: ComputeCalls,
        settings: EngineSettings,
        link_book: LinkBook,
    ) -> None:
        self._cluster = cluster
        self._compute = compute
        self._calls = calls
        self._settings = settings
        self._link_book = link_book
        self._direct_again_s = 0.0  # when a plan may have a direct exchange again
        self._loading: _Loading | None = None
        self._ahead: tuple[PlanRequest, Plans] | None = None  # what the executor's plan was chosen from
        self.executor: Executor | None = None

    @property
    def phase(self) -> Phase:
        if self._loading is not None:
            return Phase.LOADING
        return self.executor.phase if self.executor is not None else Phase.IDLE

    @property
    def fetches(self) -> Mapping[str, tuple[int, int]]:
        """Devices that get units of the plan being loaded from others: bytes, of bytes."""
        return dict(self._loading.fetches) if self._loading is not None else {}

    @property
    def _plan(self) -> Plan | None:
        """That is being loaded, else that is loaded."""
        if self._loading is not None:
            return self._loading.plan
        return self.executor.plan if self.executor is not None else None

    def standing(self, connection: Connection) -> Standing:
        """Of a peer whose frame speaks to this device as the coordinator."""
        plan = self._plan
        is_rank = plan is not None and bool(plan.rank_of(connection.peer.id))
        return Standing.RANK if is_rank else Standing.MEMBER

    async def executor_for(self, pack: Pack, progress: LoadProgress, *, alone: bool = False) -> Executor:
        """An executor over all devices that gave their lease, or over this device `alone`.

        Raises RankFailedError or DeviceLostError where another device is to blame, ClusterError, PackError or
        LoadError.
        """
        lease = self._cluster.lease
        if lease is None:
            raise NotCoordinatorError("The lease was lost before the plan was made.", hint="Try again.")
        workers = [peer.peer for id, peer in self._cluster.peers.items() if id in lease.devices and not alone]
        if self.executor is not None and self._still_good(self.executor, pack, workers):
            return self.executor
        self.drop("a new plan is made")
        self.executor = await self._make_executor(pack, workers, progress)
        return self.executor

    def drop(self, reason: str) -> None:
        """Let the executor go, here and on its workers."""
        executor, self.executor = self.executor, None
        if executor is None:
            return
        log.info("plan_dropped model=%s term=%d reason=%r", executor.plan.model, executor.plan.term, reason)
        executor.tell_workers(Unload(term=executor.plan.term))
        executor.close()

    def received(self, connection: Connection, message: Loaded | Failed | DiskUse | Progress) -> None:
        """From a rank of the plan."""
        peer, loading, executor = connection.peer, self._loading, self.executor
        if loading is not None:
            if message.term == loading.plan.term:
                self._received_loading(loading, peer, message)
        elif executor is None or message.term != executor.plan.term:
            return
        elif isinstance(message, Failed):
            executor.fail(self._failure(peer, message, executor.plan.model))
        elif not isinstance(message, Loaded):
            executor.told(peer.id, message)

    def partial_buffer(self, connection: Connection, header: TensorHeader, size_bytes: int) -> memoryview | None:
        if self.executor is None:
            return None
        return self.executor.exchange.payload_buffer(Kind.PARTIAL, connection, header, size_bytes)

    def partial(self, connection: Connection, header: TensorHeader, payload: memoryview | None) -> None:
        if self.executor is not None:
            self.executor.exchange.received(Kind.PARTIAL, connection, header, payload)

    def peer_lost(self, connection: Connection, error: TpidError) -> None:
        if self.standing(connection) is not Standing.RANK:
            return
        if isinstance(error, RemoteProtocolError):
            self._cluster.blame(connection.peer.id, error.message)
            error = RankFailedError(error.message)
        elif not isinstance(error, DeviceLostError):
            error = DeviceLostError(error.message)
        self._rank_gone(connection.peer.id, error)

    def lease_changed(self) -> None:
        """Ranks whose lease has ended have let their share go, or will: no pass may wait for them."""
        plan = self._plan
        if plan is None:
            return
        try:
            self._check_ranks(plan)
        except DeviceLostError as error:
            lease = self._cluster.lease
            for part in plan.ranks[1:]:
                if lease is None or part.device not in lease.devices:
                    self._rank_gone(part.device, error)

    def _received_loading(
        self, loading: _Loading, peer: DeviceProfile, message: Loaded | Failed | DiskUse | Progress
    ) -> None:
        future = loading.ready.get(peer.id)
        if future is None or future.done():
            return
        match message:
            case Loaded():
                future.set_result(WeightUse(message.held_bytes, message.window_bytes, message.streamed_bytes))
            case Failed():
                future.set_exception(self._failure(peer, message, loading.plan.model))
            case Progress(pass_id=None):
                loading.fetches.pop(peer.name, None)
                if message.from_devices:
                    loading.fetches[peer.name] = message.done, message.total
                loading.watch.heard(peer.id, message.done, asyncio.get_running_loop().time())

    def _failure(self, peer: DeviceProfile, message: Failed, model: str) -> RankFailedError:
        if message.code == DeviceLostError.code:
            self._direct_again_s = asyncio.get_running_loop().time() + _STAR_ONLY_S
        if message.code not in _NO_FAULT:
            self._cluster.blame(peer.id, message.reason)
        disk = message.code in (LoadError.code, PackError.code)
        hint = f"Run `tpictl verify --pack {model}` on {peer.name}." if disk else None
        return RankFailedError(f"{peer.name} failed: {message.reason}", hint=hint)

    def _rank_gone(self, device: DeviceId, error: TpidError) -> None:
        if self._loading is not None:
            future = self._loading.ready.get(device)
            if future is not None and not future.done():
                future.set_exception(error.again())
        elif self.executor is not None:
            self.executor.fail(error)

    def _check_ranks(self, plan: Plan) -> None:
        """Raises DeviceLostError where a rank's lease is not this device's any more."""
        lease = self._cluster.lease
        for part in plan.ranks[1:]:
            if lease is None or part.device not in lease.devices:
                raise DeviceLostError(f"{part.name} has ended its lease to this device.")

    def _still_good(self, executor: Executor, pack: Pack, workers: list[DeviceProfile]) -> bool:
        known = {rank.device for rank in executor.plan.ranks} | {entry.device for entry in executor.plan.left_out}
        now = {device.id: device.read_bytes_s for device in (self._cluster.me, *workers)}
        if executor.failure is not None or executor.pack.id != pack.id or known != now.keys():
            return False
        if self._ahead is not None and has_come(*self._ahead, self._cluster.me, workers):
            return False
        changes = [now[id] / max(before, 1.0) for id, before in executor.speeds.items() if now[id] >= 1.0]
        return max(changes, default=1.0) <= _SHARES_CHANGE * min(changes, default=1.0)

    async def _make_executor(self, pack: Pack, workers: list[DeviceProfile], progress: LoadProgress) -> Executor:
        term = self._cluster.bump_term()
        request = plan_request(pack, self._settings, term, self._link_book.network)
        request = replace(request, direct=asyncio.get_running_loop().time() >= self._direct_again_s)
        me = self._cluster.me
        plans = await asyncio.to_thread(plan_now_and_later, request, me, workers, plan_in_time)
        plan = plans.now
        for entry in plan.left_out:
            log.warning("left_out device=%s reason=%r", entry.name, entry.reason)
        links = self._links(plan)
        log.info("loading model=%s term=%d world_size=%d", plan.model, term, plan.world_size)
        async with self._told_to_load(plan, links) as loading:
            share, elsewhere = await self._load_all(loading, pack, progress)
        self._ahead = request, plans
        self._send_ahead(plans)
        return Executor(
            pack,
            plan,
            share,
            workers=links,
            elsewhere=elsewhere,
            speeds={device.id: device.read_bytes_s for device in (me, *workers) if device.id not in plans.late},
            calls=self._calls,
            check=self._check_ranks,
            blame=self._cluster.blame,
        )

    def _send_ahead(self, plans: Plans) -> None:
        """Devices that lack units get them, while the others compute."""
        for device in plans.late if plans.later is not None else ():
            connection = self._cluster.peers.get(device)
            if connection is not None and not connection.closed and plans.later is not None:
                log.info("late device=%s model=%s", connection.peer.name, plans.later.model)
                connection.send(Fetch(term=plans.later.term, plan=plan_to_wire(plans.later)))

    def _links(self, plan: Plan) -> dict[int, Connection]:
        links = {}
        for rank, part in enumerate(plan.ranks[1:], start=1):
            connection = self._cluster.peers.get(part.device)
            if connection is None:
                raise DeviceLostError(f"{part.name} left while the plan was made.", hint="Try again.")
            links[rank] = connection
        return links

    @asynccontextmanager
    async def _told_to_load(self, plan: Plan, links: Mapping[int, Connection]) -> AsyncIterator[_Loading]:
        """While the body runs, the workers load; where it fails they are told to let go."""
        loop = asyncio.get_running_loop()
        ready = {connection.peer.id: loop.create_future() for connection in links.values()}
        self._loading = _Loading(plan, ready, RankWatch(loop.time()))
        try:
            for connection in links.values():
                connection.send(Load(term=plan.term, plan=plan_to_wire(plan)))
            yield self._loading
        except BaseException:
            for connection in links.values():
                if not connection.closed:
                    connection.send(Unload(term=plan.term))
            raise
        finally:
            self._loading = None
            for future in ready.values():
                if not future.cancel() and not future.cancelled():
                    future.exception()  # looked at, where nobody waits for it any more
            ready.clear()

    async def _load_all(
        self, loading: _Loading, pack: Pack, progress: LoadProgress
    ) -> tuple[LoadedShare, dict[DeviceId, WeightUse]]:
        """This device's share, and what the workers hold of theirs; the first failure ends it."""
        me = self._cluster.me
        own = asyncio.create_task(load_share(self._compute, pack, loading.plan, 0, me, progress=progress), name="load")
        try:
            await self._all_loaded(loading, own)
            return own.result(), {device: future.result() for device, future in loading.ready.items()}
        except BaseException:
            own.cancel()
            await asyncio.wait([own])
            if not own.cancelled() and own.exception() is None:
                own.result().close()
            raise

    async def _all_loaded(self, loading: _Loading, own: "asyncio.Task[LoadedShare]") -> None:
        """Raises the first failure; RankFailedError for a rank that loads no more."""
        loop = asyncio.get_running_loop()
        waiting: set[asyncio.Future[object]] = {own, *loading.ready.values()}  # type: ignore[arg-type]
        while waiting:
            done, waiting = await asyncio.wait(waiting, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                future.result()
            now = loop.time()
            missing = [device for device, future in loading.ready.items() if not future.done()]
            loading.watch.waits_for(missing, loading.plan.term, now)
            overdue = loading.watch.look(now)
            if overdue is not None:
                rank = loading.plan.rank_of(overdue.device) or 0
                name = loading.plan.ranks[rank].name
                self._cluster.blame(overdue.device, overdue.reason)
                raise RankFailedError(
                    f"{name} {overdue.reason} while it loaded its share.", hint=f"Look into the log of tpid on {name}."
                )

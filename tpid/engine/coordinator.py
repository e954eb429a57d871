"""Making a plan real: the lease, the plan over the devices that gave theirs, every rank loaded."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tpid.cluster.cluster import Cluster
from tpid.comm.connection import Connection
from tpid.comm.messages import DiskUse, Failed, Load, Loaded, Message, Unload
from tpid.comm.tensors import TensorHeader
from tpid.compute.select import Compute
from tpid.device import DeviceId, DeviceProfile
from tpid.engine.compute_calls import ComputeCalls
from tpid.engine.loaded import load_share
from tpid.engine.planning import plan_request
from tpid.engine.session import Session
from tpid.engine.settings import EngineSettings
from tpid.engine.weight_use import WeightUse
from tpid.errors import ClusterError, DeviceLostError, LoadError, NotCoordinatorError, PackError, TpidError
from tpid.memory.weights import LoadProgress
from tpid.pack.reader import Pack
from tpid.plan.partition import make_plan
from tpid.plan.plan import Plan, plan_to_wire

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Loading:
    """A plan whose workers have been told to load."""

    plan: Plan
    ready: dict[DeviceId, asyncio.Future[WeightUse]]


class Coordinator:
    """At most one session; it is made anew when the model or the devices have changed."""

    def __init__(self, cluster: Cluster, compute: Compute, calls: ComputeCalls, settings: EngineSettings) -> None:
        self._cluster = cluster
        self._compute = compute
        self._calls = calls
        self._settings = settings
        self._loading: _Loading | None = None
        self.session: Session | None = None

    async def session_for(self, pack: Pack, progress: LoadProgress) -> Session:
        """A session over all devices that gave their lease. Raises ClusterError, PackError or LoadError."""
        lease = self._cluster.lease
        if lease is None:
            raise NotCoordinatorError("The lease was lost before the plan was made.", hint="Try again.")
        workers = [peer.peer for id, peer in self._cluster.peers.items() if id in lease.devices]
        if self.session is not None and self._still_good(self.session, pack, workers):
            return self.session
        self.drop("a new plan is made")
        self.session = await self._make_session(pack, workers, progress)
        return self.session

    def drop(self, reason: str) -> None:
        """Let the session go, here and on its workers."""
        session, self.session = self.session, None
        if session is None:
            return
        log.info("session_closed model=%s term=%d reason=%r", session.plan.model, session.plan.term, reason)
        session.tell_workers(Unload(term=session.plan.term))
        session.close()

    def received(self, connection: Connection, message: Message) -> None:
        """LOADED, FAILED or DISK_USE from a worker."""
        peer = connection.peer
        loading = self._loading
        match message:
            case Loaded(term=term) if loading is not None and term == loading.plan.term:
                future = loading.ready.get(peer.id)
                if future is not None and not future.done():
                    future.set_result(WeightUse(message.held_bytes, message.window_bytes, message.streamed_bytes))
            case Failed(term=term, reason=reason) if loading is not None and term == loading.plan.term:
                future = loading.ready.get(peer.id)
                if future is not None and not future.done():
                    hint = _disk_hint(message, loading.plan.model, peer.name)
                    future.set_exception(LoadError(f"{peer.name} cannot load its share: {reason}", hint=hint))
            case Failed(term=term, reason=reason) if self.session is not None and term == self.session.plan.term:
                hint = _disk_hint(message, self.session.plan.model, peer.name)
                self.session.fail(ClusterError(f"{peer.name} failed: {reason}", hint=hint))
            case DiskUse(term=term) if self.session is not None and term == self.session.plan.term:
                self.session.told_disk_use(peer.id, message)

    def partial_buffer(self, connection: Connection, header: TensorHeader, size_bytes: int) -> memoryview | None:
        if self.session is None:
            return None
        return self.session.star.payload_buffer(connection, header, size_bytes)

    def partial(self, connection: Connection, header: TensorHeader, payload: memoryview | None) -> None:
        if self.session is not None:
            self.session.star.received(connection, header, payload)

    def peer_lost(self, connection: Connection, error: TpidError) -> None:
        device = connection.peer.id
        if self._loading is not None:
            future = self._loading.ready.get(device)
            if future is not None and not future.done():
                future.set_exception(error)
        if self.session is not None and self.session.plan.rank_of(device) is not None:
            self.session.fail(error)

    def _still_good(self, session: Session, pack: Pack, workers: list[DeviceProfile]) -> bool:
        known = {rank.device for rank in session.plan.ranks} | {entry.device for entry in session.plan.left_out}
        now = {self._cluster.me.id, *(worker.id for worker in workers)}
        return session.failure is None and session.pack.id == pack.id and known == now

    async def _make_session(self, pack: Pack, workers: list[DeviceProfile], progress: LoadProgress) -> Session:
        term = self._cluster.bump_term()
        request = plan_request(pack, self._settings, term)
        plan = await asyncio.to_thread(make_plan, request, self._cluster.me, workers)
        for entry in plan.left_out:
            log.warning("left_out device=%s reason=%r", entry.name, entry.reason)
        links = self._links(plan)
        log.info("loading model=%s term=%d world_size=%d", plan.model, term, plan.world_size)
        async with self._told_to_load(plan, links) as ready:
            share = await load_share(self._compute, pack, plan, 0, self._cluster.me, progress=progress)
            try:
                elsewhere = await _all_ready(ready)
            except BaseException:
                share.close()
                raise
        return Session(pack, plan, share, workers=links, elsewhere=elsewhere, calls=self._calls)

    def _links(self, plan: Plan) -> dict[int, Connection]:
        links = {}
        for rank, part in enumerate(plan.ranks[1:], start=1):
            connection = self._cluster.peers.get(part.device)
            if connection is None:
                raise DeviceLostError(f"{part.name} left while the plan was made.", hint="Try again.")
            links[rank] = connection
        return links

    @asynccontextmanager
    async def _told_to_load(
        self, plan: Plan, links: Mapping[int, Connection]
    ) -> AsyncIterator[dict[DeviceId, asyncio.Future[WeightUse]]]:
        """While the body runs, the workers load; where it fails they are told to let go."""
        loop = asyncio.get_running_loop()
        ready = {connection.peer.id: loop.create_future() for connection in links.values()}
        self._loading = _Loading(plan, ready)
        try:
            for connection in links.values():
                connection.send(Load(term=plan.term, plan=plan_to_wire(plan)))
            yield ready
        except BaseException:
            for connection in links.values():
                if not connection.closed:
                    connection.send(Unload(term=plan.term))
            raise
        finally:
            self._loading = None
            for future in ready.values():
                future.cancel()


def _disk_hint(failed: Failed, model: str, device: str) -> str | None:
    return (
        f"Run `tpictl verify --pack {model}` on {device}." if failed.code in (LoadError.code, PackError.code) else None
    )


async def _all_ready(ready: Mapping[DeviceId, "asyncio.Future[WeightUse]"]) -> dict[DeviceId, WeightUse]:
    """What every worker holds, once it does; raises where one of them cannot."""
    uses = await asyncio.gather(*ready.values())
    return dict(zip(ready, uses, strict=True))

"""Any rank but 0: holds the share that it is told to, and computes the passes that it is sent."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tpid.comm.connection import Connection
from tpid.comm.messages import Abort, DiskUse, Failed, Load, Loaded, Message, Unload
from tpid.comm.star import StarLeaf
from tpid.comm.tensors import StartHeader, TensorHeader
from tpid.comm.wire_dtype import WireDtype, decode_tensor, wire_bytes
from tpid.compute.select import Compute
from tpid.device import DeviceId, DeviceProfile
from tpid.engine.compute_calls import ComputeCalls
from tpid.engine.loaded import LoadedShare, load_share
from tpid.engine.weight_use import WeightUse
from tpid.errors import DeviceLostError, LoadError, PassDroppedError, RemoteProtocolError, TpidError
from tpid.pack.manifest import PackId
from tpid.pack.reader import Pack
from tpid.plan.plan import Plan, plan_from_wire

log = logging.getLogger(__name__)

MAX_JOBS = 64  # a coordinator has one pass under way; more than this is a fault of its own
TELL_DISK_USE_S = 1.0  # between two messages that only people need


@dataclass(frozen=True, slots=True)
class _LoadJob:
    hub: Connection
    plan: Plan


@dataclass(frozen=True, slots=True)
class _PassJob:
    header: StartHeader
    payload: memoryview


@dataclass(frozen=True, slots=True)
class _UnloadJob:
    reason: str


@dataclass(frozen=True, slots=True)
class Holding:
    """What a worker has in memory, for status."""

    model: str
    term: int
    rank: int
    coordinator: str
    weights: WeightUse


class Worker:
    """One job at a time, in the order in which they came. All methods but `run` are called on the event loop."""

    def __init__(
        self, me: DeviceProfile, find_pack: Callable[[PackId], Pack], compute: Compute, calls: ComputeCalls
    ) -> None:
        self._me = me
        self._coordinator: DeviceId | None = None
        self._find_pack = find_pack
        self._compute = compute
        self._calls = calls
        self._jobs: asyncio.Queue[_LoadJob | _PassJob | _UnloadJob] = asyncio.Queue(MAX_JOBS)
        self._newest_load: _LoadJob | None = None
        self._hub: Connection | None = None
        self._share: LoadedShare | None = None
        self._leaf: StarLeaf | None = None
        self._dropped_pass = -1
        self._told_disk_use_s = 0.0

    @property
    def holding(self) -> Holding | None:
        if self._share is None or self._hub is None:
            return None
        plan = self._share.plan
        return Holding(plan.model, plan.term, self._share.rank, self._hub.peer.name, self._share.weight_use)

    async def run(self) -> None:
        """Does the jobs until cancelled."""
        try:
            while True:
                match await self._jobs.get():
                    case _LoadJob() as job:
                        await self._load(job)
                    case _PassJob() as job:
                        await self._pass(job)
                    case _UnloadJob(reason):
                        self._let_go(reason)
        finally:
            self._let_go("the daemon stops")

    def received(self, connection: Connection, message: Message) -> None:
        """LOAD, UNLOAD or ABORT. Raises RemoteProtocolError."""
        match message:
            case Load(term=term, plan=wire):
                if connection.peer.id != self._coordinator:
                    reason = "It has given its lease to another device."
                    self._tell(connection, Failed(term=term, code="not_coordinator", reason=reason))
                    return
                self._newest_load = _LoadJob(connection, plan_from_wire(wire))
                self._put(self._newest_load)
            case Unload():
                if connection is self._hub or self._newest_load is not None:
                    self._newest_load = None
                    self._put(_UnloadJob("the coordinator asked for it"))
            case Abort(term=term, pass_id=pass_id) if self._share is not None and term == self._share.plan.term:
                self._dropped_pass = pass_id
                if self._leaf is not None:
                    self._leaf.fail(PassDroppedError(f"The coordinator dropped pass {pass_id}."))

    def start_buffer(self, connection: Connection, header: StartHeader, size_bytes: int) -> memoryview | None:
        """Where the embedded rows of a START go; None where it is not of the plan that is loaded."""
        share = self._share
        if share is None or connection is not self._hub or header.term != share.plan.term:
            return None
        self._check_start(share, header, size_bytes)
        return memoryview(bytearray(size_bytes))

    def start(self, connection: Connection, header: StartHeader, payload: memoryview | None) -> None:
        if payload is not None and connection is self._hub:
            self._put(_PassJob(header, payload))

    def sum_buffer(self, connection: Connection, header: TensorHeader, size_bytes: int) -> memoryview | None:
        if self._leaf is None or connection is not self._hub:
            return None
        return self._leaf.payload_buffer(connection, header, size_bytes)

    def sum(self, connection: Connection, header: TensorHeader, payload: memoryview | None) -> None:
        if self._leaf is not None and connection is self._hub:
            self._leaf.received(connection, header, payload)

    def peer_lost(self, connection: Connection, error: TpidError) -> None:
        if self._newest_load is not None and self._newest_load.hub is connection:
            self._newest_load = None
        if connection is self._hub:
            if self._leaf is not None:
                self._leaf.fail(error)
            self._put(_UnloadJob(f"the coordinator is lost: {error.message}"))

    def coordinated_by(self, coordinator: DeviceId | None) -> None:
        """Whose lease this device has given: what it holds for another is let go."""
        if coordinator == self._coordinator:
            return
        self._coordinator = coordinator
        if self._newest_load is not None or self._hub is not None:
            self._newest_load = None
            self._put(_UnloadJob("the coordinator has changed"))

    def _put(self, job: _LoadJob | _PassJob | _UnloadJob) -> None:
        try:
            self._jobs.put_nowait(job)
        except asyncio.QueueFull as error:
            raise RemoteProtocolError(f"The coordinator sent more than {MAX_JOBS} orders at once.") from error

    async def _load(self, job: _LoadJob) -> None:
        self._let_go("a new plan came")
        if job is not self._newest_load:
            return
        plan = job.plan

        def progress(done_bytes: int, total_bytes: int) -> None:
            if job is not self._newest_load:
                raise LoadError("The plan was replaced while it was loaded.")

        try:
            rank = plan.rank_of(self._me.id)
            if rank is None or rank == 0:
                raise LoadError("The plan gives this device no rank as a worker.")
            pack = self._find_pack(plan.pack)
            share = await load_share(self._compute, pack, plan, rank, self._me, progress=progress)
            leaf = StarLeaf(
                plan.term,
                job.hub,
                hidden_size=pack.spec.hidden_size,
                max_tokens=plan.max_pass_tokens,
                wire_dtype=WireDtype(plan.wire_dtype),
            )
        except (TpidError, ValueError, RuntimeError, MemoryError) as error:  # torch lacks memory with RuntimeError
            log.warning("load_failed model=%s term=%d reason=%r", plan.model, plan.term, str(error))
            self._tell(job.hub, Failed(term=plan.term, code=getattr(error, "code", "load"), reason=str(error)))
            return
        if job is not self._newest_load:
            share.close()
            return
        self._hub, self._share, self._leaf, self._dropped_pass = job.hub, share, leaf, -1
        use = share.weight_use
        log.info("loaded model=%s term=%d rank=%d bytes=%d", plan.model, plan.term, rank, use.resident_bytes)
        loaded = Loaded(
            term=plan.term,
            held_bytes=use.resident_bytes,
            window_bytes=use.window_bytes,
            streamed_bytes=use.streamed_bytes,
        )
        self._tell(job.hub, loaded)

    async def _pass(self, job: _PassJob) -> None:
        share, leaf, hub = self._share, self._leaf, self._hub
        header = job.header
        stale = share is None or header.term != share.plan.term or header.pass_id <= self._dropped_pass
        if stale or share is None or leaf is None or hub is None:
            return
        hidden = np.empty((header.n_tokens, share.hidden_size), np.float32)
        decode_tensor(job.payload, header.wire_dtype, hidden)
        try:
            leaf.begin(header.pass_id, header.n_tokens)
            await share.run(hidden, header.segments, leaf, self._calls)
            self._tell_disk_use(hub, share)
        except PassDroppedError:
            log.info("pass_dropped term=%d pass=%d", header.term, header.pass_id)
        except DeviceLostError as error:
            log.warning("pass_lost term=%d pass=%d reason=%r", header.term, header.pass_id, error.message)
        except (TpidError, RuntimeError, MemoryError) as error:
            log.exception("pass_failed term=%d pass=%d", header.term, header.pass_id)
            self._tell(hub, Failed(term=header.term, code=getattr(error, "code", "internal"), reason=str(error)))

    def _let_go(self, reason: str) -> None:
        if self._share is not None:
            log.info("unloaded model=%s term=%d reason=%r", self._share.plan.model, self._share.plan.term, reason)
            self._share.close()
        self._share = self._leaf = self._hub = None

    def _check_start(self, share: LoadedShare, header: StartHeader, size_bytes: int) -> None:
        plan = share.plan
        if header.n_tokens > plan.max_pass_tokens:
            raise RemoteProtocolError(
                f"A pass of {header.n_tokens} tokens came, the plan allows {plan.max_pass_tokens}."
            )
        if header.wire_dtype != plan.wire_dtype:
            raise RemoteProtocolError(f"A START in {header.wire_dtype} came where the plan says {plan.wire_dtype}.")
        if size_bytes != wire_bytes(header.wire_dtype, header.n_tokens, share.hidden_size):
            raise RemoteProtocolError(f"A START of {size_bytes} bytes came for {header.n_tokens} tokens.")
        for segment in header.segments:
            if segment.slot >= plan.n_slots or segment.start + segment.n_tokens > plan.context_tokens:
                raise RemoteProtocolError(f"A START is outside the plan's KV cache: {segment}.")

    def _tell_disk_use(self, hub: Connection, share: LoadedShare) -> None:
        use, now = share.weight_use, time.monotonic()
        if use.disk_bytes_s is None or use.stall_s is None or now - self._told_disk_use_s < TELL_DISK_USE_S:
            return
        self._told_disk_use_s = now
        self._tell(hub, DiskUse(term=share.plan.term, disk_bytes_s=use.disk_bytes_s, stall_s=use.stall_s))

    @staticmethod
    def _tell(hub: Connection, message: Message) -> None:
        try:
            hub.send(message)
        except DeviceLostError as error:
            log.warning("tell_failed peer=%s reason=%r", hub.peer.name, error.message)

"""Any rank but 0: holds the share that it is told to, and computes the passes that it is sent.

What is done when is decided by `tpid.engine.worker_machine`; this is its shell. Whatever a load or a pass ends with, it
becomes an event of the machine: no peer and no disk ends the worker.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from tpid.comm.connection import Connection
from tpid.comm.exchange import Exchange, make_exchange
from tpid.comm.messages import Abort, DiskUse, Kind, Load, Message, Progress, Unload
from tpid.comm.tensors import StartHeader, TensorHeader
from tpid.comm.wire_dtype import WireDtype, decode_tensor, wire_bytes
from tpid.compute.select import Compute
from tpid.device import DeviceId, DeviceProfile
from tpid.engine.authority import Phase, Standing
from tpid.engine.compute_calls import ComputeCalls
from tpid.engine.loaded import LoadedShare, load_share
from tpid.engine.pack_source import PackSource
from tpid.engine.weight_use import WeightUse
from tpid.engine.worker_machine import (
    Action,
    BeginLoad,
    BeginPass,
    Came,
    EndJob,
    Event,
    FreeShare,
    HubLost,
    LeaseIsOf,
    LoadEnded,
    Order,
    Ordered,
    PassEnded,
    Start,
    Started,
    Stopped,
    Tell,
    WorkerMachine,
)
from tpid.errors import DeviceLostError, LoadError, MemoryPlanError, PassDroppedError, RemoteProtocolError, TpidError
from tpid.model.weights import F32
from tpid.plan.plan import plan_from_wire
from tpid.size import shown_size

log = logging.getLogger(__name__)

TELL_DISK_USE_S: Final = 1.0  # between two messages that only people need
TELL_PROGRESS_S: Final = 0.5  # the coordinator gives up a rank of which it hears nothing for several times as long


@dataclass(frozen=True, slots=True)
class Holding:
    """What a worker has in memory, for status."""

    model: str
    term: int
    rank: int
    coordinator: str
    weights: WeightUse


@dataclass(frozen=True, slots=True)
class _Held:
    """A share, and what joins it to the other ranks."""

    share: LoadedShare
    exchange: Exchange
    links: Mapping[int, Connection]  # by rank: the hub, and where the plan has a direct exchange all others
    start_slot: memoryview  # the rows of the pass to come; one is enough, because they are decoded when it begins

    def close(self) -> None:
        self.exchange.close()
        self.share.close()


class Worker:
    """All methods but `run` are called on the event loop and do not block."""

    def __init__(
        self,
        me: DeviceProfile,
        packs: PackSource,
        compute: Compute,
        calls: ComputeCalls,
        peers: Callable[[], Mapping[DeviceId, Connection]],
    ) -> None:
        self._me = me
        self._packs = packs
        self._compute = compute
        self._calls = calls
        self._peers = peers
        self._machine = WorkerMachine()
        self._tasks: asyncio.TaskGroup | None = None
        self._job: asyncio.Task[None] | None = None
        self._job_error: TpidError | None = None  # what the job is ended with
        self._job_since_s = 0.0
        self._loaded_bytes = 0, 0  # read, in all
        self._at_work = asyncio.Event()
        self._held: _Held | None = None
        self._told_disk_use_s = 0.0

    @property
    def holding(self) -> Holding | None:
        order, held = self._machine.order, self._held
        if order is None or held is None:
            return None
        plan = order.plan
        return Holding(plan.model, plan.term, held.share.rank, order.hub.peer.name, held.share.weight_use)

    @property
    def phase(self) -> Phase:
        return self._machine.phase

    def standing(self, connection: Connection) -> Standing:
        """Of a peer whose frame speaks to this device as a worker."""
        if connection.peer.id == self._machine.holder:
            return Standing.HOLDER
        if connection is self._machine.held_for:
            return Standing.FORMER_HOLDER
        order, held = self._machine.order, self._held
        if order is None or held is None or order.hub.peer.id != self._machine.holder:
            return Standing.MEMBER
        return Standing.PEER if connection in held.links.values() else Standing.MEMBER

    async def run(self) -> None:
        """Does what is ordered until cancelled; lets everything go at the end."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                await self._report()
        finally:
            self._tasks = None
            self._machine.handle(Stopped())
            self._free("the daemon stops")

    def received(self, connection: Connection, message: Load | Unload | Abort) -> None:
        """Raises RemoteProtocolError."""
        if isinstance(message, Load):
            self._feed(Ordered(Order(connection, plan_from_wire(message.plan))))
        else:
            self._feed(Came(connection, message))

    def start_buffer(self, connection: Connection, header: StartHeader, size_bytes: int) -> memoryview | None:
        """Where the embedded rows of a START go; None where it is not of the plan that is loaded."""
        order, held = self._machine.order, self._held
        if held is None or order is None or connection is not order.hub or header.term != order.plan.term:
            return None
        self._check_start(held.share, header, size_bytes)
        if header.pass_id <= self._machine.newest_pass:
            return None
        if self._machine.pass_waits:
            raise RemoteProtocolError(f"Pass {header.pass_id} came while the one before was still to begin.")
        return held.start_slot[:size_bytes]

    def start(self, connection: Connection, header: StartHeader, payload: memoryview | None) -> None:
        if payload is not None:
            self._feed(Started(connection, Start(header, payload)))

    def tensor_buffer(
        self, kind: Kind, connection: Connection, header: TensorHeader, size_bytes: int
    ) -> memoryview | None:
        held = self._held
        return held.exchange.payload_buffer(kind, connection, header, size_bytes) if held is not None else None

    def tensor(self, kind: Kind, connection: Connection, header: TensorHeader, payload: memoryview | None) -> None:
        if self._held is not None:
            self._held.exchange.received(kind, connection, header, payload)

    def peer_lost(self, connection: Connection, error: TpidError) -> None:
        self._feed(HubLost(connection, error))
        if self._held is not None and connection in self._held.links.values():
            # The pass ends here, and the hub hears of it: perhaps it is the link alone that is lost.
            self._held.exchange.fail(DeviceLostError(error.message))

    def lease_is_of(self, holder: DeviceId | None) -> None:
        """Whom this device has given its lease: what it holds for another is let go."""
        self._feed(LeaseIsOf(holder))

    # --- the machine's shell

    def _feed(self, event: Event) -> None:
        for action in self._machine.handle(event):
            self._perform(action)

    def _perform(self, action: Action) -> None:
        match action:
            case Tell(hub, message):
                _tell(hub, message)
            case BeginLoad(order):
                self._begin("load", self._load(order))
            case BeginPass(start):
                self._begin_pass(start)
            case EndJob(error):
                self._end_job(error)
            case FreeShare(reason):
                self._free(reason)

    def _begin(self, name: str, job: "asyncio._CoroutineLike[None]") -> None:
        if self._tasks is None:  # the daemon stops
            job.close()
            return
        self._job_error = None
        self._job_since_s = time.monotonic()
        self._job = self._tasks.create_task(job, name=name)
        self._at_work.set()

    def _end_job(self, error: TpidError) -> None:
        self._job_error = error
        if self._held is not None:
            self._held.exchange.fail(error)
        if self._job is not None:
            self._job.cancel()

    def _free(self, reason: str) -> None:
        held, self._held = self._held, None
        if held is not None:
            plan = held.share.plan
            log.info("unloaded model=%s term=%d reason=%r", plan.model, plan.term, reason)
            held.close()

    # --- jobs

    async def _load(self, order: Order) -> None:
        plan = order.plan
        use: WeightUse | None = None
        failure: BaseException | None = None
        try:
            self._held = await self._load_share(order)
            use = self._held.share.weight_use
            log.info("loaded model=%s term=%d bytes=%d", plan.model, plan.term, use.resident_bytes)
        except asyncio.CancelledError:
            if self._job_error is None:
                raise
            failure = self._job_error
        except (TpidError, OSError, MemoryError) as error:
            log.warning("load_failed model=%s term=%d reason=%r", plan.model, plan.term, str(error))
            failure = error
        except Exception as error:  # a fault of ours, or of the torch backend: told, and the worker lives
            log.exception("load_failed model=%s term=%d", plan.model, plan.term)
            failure = error
        self._at_work.clear()
        self._feed(LoadEnded(use, failure))

    async def _load_share(self, order: Order) -> _Held:
        plan, me = order.plan, self._me
        rank = plan.rank_of(me.id)
        if rank is None or rank == 0:
            raise LoadError("The plan gives this device no rank as a worker.")
        planned_bytes = plan.ranks[rank].memory_bytes
        if planned_bytes > me.budget_bytes:
            raise MemoryPlanError(
                f"The plan wants {shown_size(planned_bytes)} of {me.name}, whose budget is "
                f"{shown_size(me.budget_bytes)}."
            )
        self._loaded_bytes = 0, 0

        def progress(done_bytes: int, total_bytes: int) -> None:
            self._loaded_bytes = done_bytes, total_bytes

        links = self._links(order, rank)
        pack = await self._packs.pack_for(plan.pack, plan.ranks[rank].share, progress)
        share = await load_share(self._compute, pack, plan, rank, me, progress=progress)
        wire_dtype = WireDtype(plan.wire_dtype)
        exchange = make_exchange(
            plan.term,
            rank,
            links,
            hidden_size=share.hidden_size,
            max_tokens=plan.max_pass_tokens,
            wire_dtype=wire_dtype,
            direct_tokens=plan.direct_tokens,
        )
        slot_bytes = wire_bytes(wire_dtype, plan.max_pass_tokens, pack.spec.hidden_size)
        return _Held(share, exchange, links, memoryview(bytearray(slot_bytes)))

    def _links(self, order: Order, rank: int) -> dict[int, Connection]:
        """To the ranks that this one exchanges with. Raises DeviceLostError."""
        links = {0: order.hub}
        for number, part in enumerate(order.plan.ranks):
            if order.plan.direct_tokens and number not in (0, rank):
                connection = self._peers().get(part.device)
                if connection is None or connection.closed:
                    raise DeviceLostError(f"{self._me.name} is not connected to {part.name}.")
                links[number] = connection
        return links

    def _begin_pass(self, start: Start) -> None:
        """Decodes the rows now: their slot is free for the next pass."""
        held, header = self._held, start.header
        if held is None:
            raise RuntimeError("a pass begins without a share")
        hidden = np.empty((header.n_tokens, held.share.hidden_size), np.float32)
        decode_tensor(start.payload, header.wire_dtype, hidden)
        held.exchange.begin(header.pass_id, header.n_tokens)
        self._begin("pass", self._pass(held, header, hidden))

    async def _pass(self, held: _Held, header: StartHeader, hidden: F32) -> None:
        failure: BaseException | None = None
        try:
            await held.share.run(hidden, header.segments, held.exchange, self._calls)
            self._tell_disk_use(held.share)
        except asyncio.CancelledError:
            if self._job_error is None:
                raise
            failure = self._job_error
        except PassDroppedError as error:
            log.info("pass_dropped term=%d pass=%d", header.term, header.pass_id)
            failure = error
        except DeviceLostError as error:
            log.warning("pass_lost term=%d pass=%d reason=%r", header.term, header.pass_id, error.message)
            failure = error
        except Exception as error:  # whatever it is, the coordinator hears of it and the worker lives
            log.exception("pass_failed term=%d pass=%d", header.term, header.pass_id)
            failure = error
        self._at_work.clear()
        self._feed(PassEnded(failure))

    # --- what is told meanwhile

    async def _report(self) -> None:
        """Twice a second while a job runs, so that a slow device is not taken for a stuck one."""
        while True:
            await self._at_work.wait()
            await asyncio.sleep(TELL_PROGRESS_S)
            hub = self._machine.held_for
            if hub is None or not self._at_work.is_set() or time.monotonic() - self._job_since_s < TELL_PROGRESS_S:
                continue
            order, held = self._machine.order, self._held
            if order is None and self._machine.loading is not None:
                done, total = self._loaded_bytes
                term, from_devices = self._machine.loading.plan.term, self._packs.from_devices
                _tell(hub, Progress(term=term, done=done, total=total, from_devices=from_devices))
            elif order is not None and held is not None:
                done, total = held.exchange.step, held.share.n_steps
                _tell(hub, Progress(term=order.plan.term, pass_id=held.exchange.pass_id, done=done, total=total))

    def _tell_disk_use(self, share: LoadedShare) -> None:
        order, use, now = self._machine.order, share.weight_use, time.monotonic()
        if use.disk_bytes_s is None or use.stall_s is None or now - self._told_disk_use_s < TELL_DISK_USE_S:
            return
        if order is not None:
            self._told_disk_use_s = now
            told = DiskUse(term=order.plan.term, disk_bytes_s=use.disk_bytes_s, stall_s=use.stall_s)
            _tell(order.hub, told)

    @staticmethod
    def _check_start(share: LoadedShare, header: StartHeader, size_bytes: int) -> None:
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


def _tell(hub: Connection, message: Message) -> None:
    try:
        hub.send(message)
    except DeviceLostError as error:
        log.warning("tell_failed peer=%s reason=%r", hub.peer.name, error.message)

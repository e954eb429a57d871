"""A rank's part of a plan, ready to compute."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from tpid.comm.allreduce import Reducer
from tpid.compute.backend import Backend, BlockBytes, Head
from tpid.compute.forward import forward
from tpid.compute.select import Compute
from tpid.device import DeviceProfile
from tpid.engine.compute_calls import ComputeCalls
from tpid.engine.cycle import Part, cycle_within
from tpid.engine.passes import drive
from tpid.engine.planning import planned_work
from tpid.engine.weight_use import WeightUse
from tpid.errors import LoadError, MemoryPlanError
from tpid.memory.weights import LoadProgress, Stored, Weights
from tpid.model.batch import Segment
from tpid.model.weights import F32
from tpid.pack.reader import Pack
from tpid.pack.tiles import U8
from tpid.plan.footprint import attn_weight_bytes, ffn_weight_bytes, weight_room_bytes
from tpid.plan.plan import Plan
from tpid.size import shown_size


class LoadedShare:
    """Computes passes and, on the coordinator, logits; one at a time."""

    def __init__(
        self,
        pack: Pack,
        plan: Plan,
        rank: int,
        *,
        backend: Backend[Any],
        head: Head[Any] | None,
        weights: Weights[Any],
        read_bytes: int,
    ) -> None:
        """`read_bytes`: of the layers' weights, as the cost model counts what a decode pass reads."""
        self.plan = plan
        self.rank = rank
        self.hidden_size = pack.spec.hidden_size
        self._n_layers = pack.spec.n_layers
        self._n_blocks = len(pack.manifest.blocks())
        self._vocab_size = pack.spec.vocab_size
        self._backend: Backend[Any] | None = backend
        self._head = head
        self._weights = weights
        self._read_bytes = read_bytes
        self._last_tokens = 0  # of the pass that was begun last
        self._stalled_s = 0.0  # up to then
        self._stall_s: float | None = None
        self._counted_bytes = 0  # of what was read from disk

    @property
    def n_steps(self) -> int:
        """Allreduces of a pass."""
        return self._n_blocks

    @property
    def weight_use(self) -> WeightUse:
        plan, traffic = self._weights.plan, self._weights.traffic
        return WeightUse(
            resident_bytes=plan.resident_bytes,
            window_bytes=plan.window_bytes,
            streamed_bytes=plan.streamed_bytes,
            disk_bytes_s=traffic.read_bytes / traffic.disk_s if traffic.disk_s else None,
            stall_s=self._stall_s,
        )

    async def run(self, hidden: F32, segments: tuple[Segment, ...], allreduce: Reducer, calls: ComputeCalls) -> F32:
        """One pass of this rank; `hidden` [n_tokens, hidden] fp32 is changed in place. Raises LoadError."""
        if self._backend is None:
            raise LoadError("The share was let go while a pass was to begin.", hint="Try again.")
        self._note_stall(len(hidden))
        walk = forward(self._backend, self._n_layers, hidden, segments)
        before_s = calls.busy_s
        result = await drive(walk, self._weights, allreduce, calls, n_blocks=self._n_blocks, n_tokens=len(hidden))
        if len(hidden) == 1 and not self._weights.streams:
            calls.decoded(self._read_bytes, self._n_blocks, calls.busy_s - before_s)
        self._count_streamed(calls)
        return result

    async def logits(self, hidden: F32, calls: ComputeCalls) -> F32:
        """hidden [n, hidden] fp32, only the rows that need logits -> [n, vocab] fp32. Raises LoadError."""
        if self._head is None:
            raise ValueError("a worker has no head")
        logits = np.empty((len(hidden), self._vocab_size), np.float32)
        row, index = 0, self._n_blocks
        while row < self._vocab_size:
            async with self._weights.lease(index) as prepare:
                call = _head_call(self._head, prepare, hidden)
                part = await calls.run(len(hidden), call, loop_is_free=not self._weights.streams)
            logits[:, row : row + part.shape[1]] = part
            row, index = row + part.shape[1], index + 1
        return logits

    def close(self) -> None:
        """Let go of weights, cache and buffers, whoever still has this object; a step under way keeps what it uses."""
        self._weights.close()
        self._backend = self._head = None

    def _count_streamed(self, calls: ComputeCalls) -> None:
        read_bytes = self._weights.traffic.read_bytes
        calls.streamed_bytes += read_bytes - self._counted_bytes
        self._counted_bytes = read_bytes

    def _note_stall(self, n_tokens: int) -> None:
        """What the decode step before waited for the disk, its head included."""
        stalled_s = self._weights.traffic.stall_s
        if self._last_tokens == 1:
            self._stall_s = stalled_s - self._stalled_s
        self._last_tokens, self._stalled_s = n_tokens, stalled_s


def _ignore(done_bytes: int, total_bytes: int) -> None:
    return None


class LoadWeights(Protocol):
    """As Weights.load; the benchmarks have others, to compare with."""

    async def __call__(
        self,
        items: Sequence[Stored[Any]],
        budget_bytes: int,
        disk_bytes_s: float,
        progress: LoadProgress,
        /,
    ) -> Weights[Any]: ...


async def load_share(
    compute: Compute,
    pack: Pack,
    plan: Plan,
    rank: int,
    device: DeviceProfile,
    *,
    progress: LoadProgress = _ignore,
    load: LoadWeights = Weights.load,
) -> LoadedShare:
    """What has room stays in memory, the rest streams. Raises MemoryPlanError, LoadError or PackError."""
    part = plan.ranks[rank]
    room = weight_room_bytes(
        planned_work(pack, plan), device.backend, part.share, part.memory_bytes, coordinator=rank == 0
    )
    if room < 0:  # before anything is taken
        raise MemoryPlanError(
            f"The plan gives {part.name} {shown_size(part.memory_bytes)}, but its cache and buffers alone take "
            f"{shown_size(part.memory_bytes - room)}.",
            hint="Raise memory_budget there, or lower context_tokens.",
        )
    parts = cycle_within(pack, part.share, device, room, coordinator=rank == 0)
    backend = compute.backend(
        pack.spec,
        part.share,
        n_slots=plan.n_slots,
        context_tokens=plan.context_tokens,
        max_tokens=plan.max_pass_tokens,
    )
    head = compute.head(pack.spec, pack.manifest.head_geometry, pack.final_norm()) if rank == 0 else None
    vectors = functools.cache(pack.vectors)  # both halves of a layer use them
    items = [
        Stored(str(item), item.where(pack), _preparation(pack, vectors, item, backend, head), item.item(device))
        for item in parts
    ]
    weights = await load(items, room, device.disk_bytes_s, progress)
    work = planned_work(pack, plan)
    read_bytes = len(part.share.attn) * attn_weight_bytes(work, device.backend)
    read_bytes += len(part.share.ffn) * ffn_weight_bytes(work, device.backend)
    return LoadedShare(pack, plan, rank, backend=backend, head=head, weights=weights, read_bytes=read_bytes)


def _preparation(
    pack: Pack,
    vectors: Callable[[int], Mapping[str, F32]],
    part: Part,
    backend: Backend[Any],
    head: Head[Any] | None,
) -> Callable[[U8], Any]:
    """How the part's bytes become what the backend, or the head, computes with."""
    block, first_unit = part.block, part.units.start
    if block is None:
        if head is None:
            raise ValueError("a worker has no head")
        stride = pack.manifest.head_geometry.stride_bytes
        return lambda data: head.prepare(data.reshape(-1, stride), first_unit)
    geometry, of_layer = pack.geometry(block), vectors(block.layer)

    def prepare(data: U8) -> Any:
        units = data.reshape(-1, geometry.stride_bytes)
        return backend.prepare(BlockBytes(block, geometry, first_unit, units, of_layer))

    return prepare


def _head_call(head: Head[Any], prepare: Callable[[], Any], hidden: F32) -> Callable[[], F32]:
    return lambda: head.logits(prepare(), hidden)

"""A rank's part of a plan, in memory and ready to compute."""

import asyncio
from dataclasses import dataclass
from typing import Any

from tpid.comm.allreduce import Allreduce
from tpid.compute.backend import Backend, BlockBytes, Head
from tpid.compute.forward import forward
from tpid.compute.select import Compute
from tpid.engine.compute_calls import ComputeCalls
from tpid.engine.passes import drive
from tpid.engine.weight_use import WeightUse
from tpid.memory.resident import LoadProgress, ResidentBlocks, page_aligned, read_into
from tpid.model.batch import Segment
from tpid.model.weights import F32
from tpid.pack.geometry import Block
from tpid.pack.reader import Pack
from tpid.pack.tiles import U8
from tpid.plan.plan import Plan


@dataclass(frozen=True, slots=True)
class LoadedShare:
    plan: Plan
    rank: int
    backend: Backend[Any]
    blocks: ResidentBlocks[Any]
    hidden_size: int
    n_layers: int

    @property
    def weight_use(self) -> WeightUse:
        return WeightUse(resident_bytes=self.blocks.read_bytes)

    async def run(self, hidden: F32, segments: tuple[Segment, ...], allreduce: Allreduce, calls: ComputeCalls) -> F32:
        """One pass of this rank; `hidden` [n_tokens, hidden] fp32 is changed in place."""
        walk = forward(self.backend, self.n_layers, hidden, segments)
        return await drive(walk, len(hidden), self.blocks, allreduce, calls)


def _ignore(done_bytes: int, total_bytes: int) -> None:
    return None


async def load_share(
    compute: Compute, pack: Pack, plan: Plan, rank: int, progress: LoadProgress = _ignore
) -> LoadedShare:
    """Raises LoadError or PackError."""
    share = plan.ranks[rank].share
    backend = compute.backend(
        pack.spec,
        share,
        n_slots=plan.n_slots,
        context_tokens=plan.context_tokens,
        max_tokens=plan.max_pass_tokens,
    )

    def prepare(block: Block, units: U8) -> Any:
        vectors = pack.vectors(block.layer)
        return backend.prepare(BlockBytes(block, pack.geometry(block), share.of(block.half).start, units, vectors))

    blocks = await ResidentBlocks.load(pack, share, prepare, progress)
    return LoadedShare(plan, rank, backend, blocks, pack.spec.hidden_size, pack.spec.n_layers)


async def load_head(compute: Compute, pack: Pack) -> Head:
    """The coordinator's: whole. Raises LoadError or PackError."""
    geometry = pack.manifest.head_geometry
    units = page_aligned(geometry.size_bytes)
    await read_into(pack.head_range(), units)
    by_unit = units.reshape(geometry.n_units, geometry.stride_bytes)
    return await asyncio.to_thread(compute.head, pack.spec, geometry, by_unit, pack.final_norm())

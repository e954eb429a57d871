"""All ranks of a plan in one process, whatever their backend."""

from typing import Any

import numpy as np

from tpid.compute.backend import BlockBytes
from tpid.compute.forward import forward
from tpid.compute.lockstep import run_lockstep
from tpid.compute.native.library import Cores
from tpid.compute.native_backend import NativeBackend, NativeHead
from tpid.compute.torch_backend import TorchBackend, TorchHead
from tpid.model.batch import Segment
from tpid.model.weights import F32
from tpid.pack.embedding import EmbeddingRows
from tpid.pack.geometry import Block, Half, Share, UnitRange
from tpid.pack.reader import Pack, read_range

CONTEXT_TOKENS = 64


class Ranks:
    def __init__(self, pack: Pack, shares: list[Share], backends: list[Any], head: Any) -> None:
        self.pack = pack
        self.backends = backends
        self.weights = {
            (rank, block): _prepared(pack, backend, block, share.of(block.half))
            for rank, (backend, share) in enumerate(zip(backends, shares, strict=True))
            for block in pack.manifest.blocks()
        }
        geometry = pack.manifest.head_geometry
        units = read_range(pack.head_range()).reshape(geometry.n_units, geometry.stride_bytes)
        cut = geometry.n_units // 2  # in two slices, one of them empty for a small vocabulary
        self._head = head
        self._slices = [head.prepare(part, first) for first, part in ((0, units[:cut]), (cut, units[cut:]))]

    def step(self, parts: list[tuple[int, int, list[int]]]) -> F32:
        """One pass over (slot, start, ids) of each sequence; final hidden states, the same bits on all ranks."""
        segments = tuple(Segment(slot, start, len(ids)) for slot, start, ids in parts)
        with EmbeddingRows(self.pack) as rows:
            hidden = rows.gather([id for _, _, ids in parts for id in ids])
        walks = [forward(backend, self.pack.spec.n_layers, hidden.copy(), segments) for backend in self.backends]
        results = run_lockstep(walks, lambda rank, block: self.weights[rank, block])
        for result in results[1:]:
            np.testing.assert_array_equal(result, results[0])
        return results[0]

    def head_logits(self, hidden: F32) -> F32:
        return np.concatenate([self._head.logits(part, hidden) for part in self._slices], axis=1)

    def logits(self, ids: list[int], chunks: list[int]) -> F32:
        rows, start = [], 0
        for n in chunks:
            rows.append(self.head_logits(self.step([(0, start, ids[start : start + n])])))
            start += n
        return np.concatenate(rows)


def torch_ranks(pack: Pack, shares: list[Share], n_slots: int = 1) -> Ranks:
    backends = [TorchBackend(pack.spec, share, n_slots=n_slots, context_tokens=CONTEXT_TOKENS) for share in shares]
    return Ranks(pack, shares, backends, TorchHead(pack.spec, pack.manifest.head_geometry, pack.final_norm()))


def native_ranks(
    pack: Pack,
    shares: list[Share],
    *,
    n_slots: int = 1,
    kernels: str | None = None,
    n_threads: int = 2,
    planes: int = 2,
    int8_cache: bool = False,
) -> Ranks:
    """`kernels`: the best by default."""
    cores = Cores(n_threads, kernels, planes=planes)
    backends = [
        NativeBackend(
            cores,
            pack.spec,
            share,
            n_slots=n_slots,
            context_tokens=CONTEXT_TOKENS,
            max_pass_tokens=40,
            int8_cache=int8_cache,
        )
        for share in shares
    ]
    return Ranks(pack, shares, backends, NativeHead(cores, pack.spec, pack.manifest.head_geometry, pack.final_norm()))


def even_shares(pack: Pack, world_size: int) -> list[Share]:
    def cut(half: Half) -> list[UnitRange]:
        n_units = pack.geometry(Block(0, half)).n_units
        edges = [round(rank * n_units / world_size) for rank in range(world_size + 1)]
        return [UnitRange(edges[rank], edges[rank + 1]) for rank in range(world_size)]

    return [Share(attn, ffn) for attn, ffn in zip(cut(Half.ATTN), cut(Half.FFN), strict=True)]


def uneven_shares(pack: Pack) -> list[Share]:
    """Of four ranks: one without attention, one without FFN, one with most, one with nothing."""
    n_attn, n_ffn = (pack.geometry(Block(0, half)).n_units for half in Half)
    return [
        Share(UnitRange(0, 0), UnitRange(0, 1)),
        Share(UnitRange(0, 2), UnitRange(1, 1)),
        Share(UnitRange(2, n_attn), UnitRange(1, n_ffn)),
        Share(UnitRange(n_attn, n_attn), UnitRange(n_ffn, n_ffn)),
    ]


def _prepared(pack: Pack, backend: Any, block: Block, units: UnitRange) -> Any:
    geometry = pack.geometry(block)
    data = read_range(pack.block_range(block, units)).reshape(len(units), geometry.stride_bytes)
    return backend.prepare(BlockBytes(block, geometry, units.start, data, pack.vectors(block.layer)))

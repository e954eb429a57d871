"""The footprint against what the torch backend really holds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tpid.compute.backend import BlockBytes
from tpid.compute.torch_backend import TorchBackend, TorchHead
from tpid.pack.geometry import Block, Half, Share, UnitRange
from tpid.pack.reader import Pack, read_range
from tpid.plan.footprint import (
    Workload,
    fixed_bytes,
    kv_bytes,
    share_bytes,
    weights_bytes,
    workload_of,
)

CONTEXT_TOKENS, N_SLOTS = 32, 2


@pytest.fixture(scope="module", params=[{}, {"tie_word_embeddings": False}])
def pack(request: pytest.FixtureRequest, random_model: Callable[..., Path], pack_of: Callable[..., Pack]) -> Pack:
    return pack_of(random_model("llama", **request.param))


@pytest.fixture
def work(pack: Pack) -> Workload:
    return workload_of(pack.manifest, context_tokens=CONTEXT_TOKENS, n_slots=N_SLOTS, max_pass_tokens=8)


def held_bytes(pack: Pack, share: Share) -> tuple[int, int]:
    """(matrices, KV cache) of a share in the torch backend."""
    backend = TorchBackend(pack.spec, share, n_slots=N_SLOTS, context_tokens=CONTEXT_TOKENS)
    weights = 0
    for block in pack.manifest.blocks():
        units, geometry = share.of(block.half), pack.geometry(block)
        data = read_range(pack.block_range(block, units)).reshape(len(units), geometry.stride_bytes)
        prepared = backend.prepare(BlockBytes(block, geometry, units.start, data, pack.vectors(block.layer)))
        weights += sum(matrix.nbytes for matrix in prepared.matrices.values())
    return weights, backend._keys.nbytes + backend._values.nbytes


@pytest.mark.parametrize(("attn", "ffn"), [((0, 3), (0, 7)), ((0, 1), (0, 2)), ((1, 3), (6, 7)), ((0, 0), (2, 2))])
def test_units_take_what_the_backend_holds(
    pack: Pack, work: Workload, attn: tuple[int, int], ffn: tuple[int, int]
) -> None:
    share = Share(UnitRange(*attn), UnitRange(*ffn))
    units = len(share.attn), len(share.ffn)
    weights, cache = held_bytes(pack, share)
    assert weights_bytes(work, "torch", *units, coordinator=False) == weights
    assert kv_bytes(work, "torch", len(share.attn)) == cache
    for coordinator in (False, True):
        whole = weights_bytes(work, "torch", *units, coordinator=coordinator)
        whole += fixed_bytes(work, "torch", *units, coordinator=coordinator)
        assert share_bytes(work, "torch", share, coordinator=coordinator) == whole


def test_the_coordinator_holds_the_head_as_well(pack: Pack, work: Workload) -> None:
    geometry = pack.manifest.head_geometry
    units = read_range(pack.head_range()).reshape(geometry.n_units, geometry.stride_bytes)
    head = TorchHead(pack.spec, geometry, pack.final_norm()).prepare(units, 0)
    with_head, without = (weights_bytes(work, "torch", 1, 1, coordinator=here) for here in (True, False))
    assert with_head - without == head.nbytes


def test_a_workload_is_that_of_the_pack(pack: Pack, work: Workload) -> None:
    assert (work.n_attn_units, work.n_ffn_units) == tuple(pack.geometry(Block(0, half)).n_units for half in Half)
    padded_ffn = 7 * 32
    assert work.layer_weights == 96 * 16 * (6 + 3 + 3 + 6) + 3 * 96 * padded_ffn
    assert (work.context_tokens, work.n_slots, work.max_pass_tokens) == (CONTEXT_TOKENS, N_SLOTS, 8)


@pytest.mark.parametrize("field", ["context_tokens", "n_slots"])
def test_more_context_and_more_sequences_take_more(workload: Callable[..., Workload], field: str) -> None:
    """KV of one group: two fp32 vectors of 64 a token, in 30 layers."""
    one, two = workload(**{field: 1}), workload(**{field: 2})
    other: Any = {"context_tokens": 1, "n_slots": 4096}[field]
    assert kv_bytes(two, "torch", 1) - kv_bytes(one, "torch", 1) == 30 * 2 * 64 * 4 * other
    assert kv_bytes(two, "torch", 0) == 0


def test_longer_passes_take_more(workload: Callable[..., Workload]) -> None:
    one, two = (fixed_bytes(workload(max_pass_tokens=n), "torch", 1, 1, coordinator=False) for n in (1, 101))
    assert two - one >= 100 * 1536 * 4

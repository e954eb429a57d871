"""The footprint against what the backends really hold."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tpid.compute.native
from tpid.compute.backend import BlockBytes
from tpid.compute.native.library import load
from tpid.compute.torch_backend import TorchBackend, TorchHead
from tpid.model.weights import Format
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


def test_a_cache_of_int8_takes_a_byte_a_value_and_two_for_each_32(workload: Callable[..., Workload]) -> None:
    work = workload(context_tokens=16, n_slots=1)
    assert kv_bytes(work, "native", 1) == 16 * 30 * 2 * 64 * 2
    assert kv_bytes(work, "native-kv8", 1) == 16 * 30 * 2 * (64 + 2 * 2)


def test_keys_without_their_biases_need_the_angles_of_each_block(workload: Callable[..., Workload]) -> None:
    plain = workload(context_tokens=4096)
    biased = replace(plain, spec=replace(plain.spec, pattern=(replace(plain.spec.layer(0), qkv_bias=True),)))
    more = kv_bytes(biased, "native-kv8", 1) - kv_bytes(plain, "native-kv8", 1)
    assert more == (4096 // 16 + 16) * 64 * 4
    assert more < 0.01 * kv_bytes(plain, "native-kv8", 1)
    assert kv_bytes(biased, "native-kv8", 0) == 0
    assert kv_bytes(biased, "native", 1) == kv_bytes(plain, "native", 1)
    normed = replace(biased, spec=replace(biased.spec, pattern=(replace(biased.spec.layer(0), qk_norm=True),)))
    assert kv_bytes(normed, "native-kv8", 1) == kv_bytes(plain, "native-kv8", 1)


def test_longer_passes_take_more(workload: Callable[..., Workload]) -> None:
    one, two = (fixed_bytes(workload(max_pass_tokens=n), "torch", 1, 1, coordinator=False) for n in (1, 101))
    assert two - one >= 100 * 1536 * 4


def test_the_native_buffers_are_counted_as_the_kernels_lay_them_out(pack_of_formats: Callable[[Format], Pack]) -> None:
    """Numbers that stand in C as well."""
    native = Path(tpid.compute.native.__file__).parent
    defined = dict(
        re.findall(r"#define (\w+) (\d+)", (native / "tiles.h").read_text() + (native / "kernels.h").read_text())
    )
    planes = int(defined["INT8_BYTES"]) * int(defined["MAX_PLANES"])
    for format, tile_bytes in {Format.W4: planes, Format.F16: int(defined["FP32_BYTES"])}.items():
        work = workload_of(pack_of_formats(format).manifest, context_tokens=17, n_slots=1, max_pass_tokens=1)
        assert work.activation_tile_bytes == tile_bytes
    padded = -(-17 // int(defined["KEY_BLOCK"])) * int(defined["KEY_BLOCK"])
    assert kv_bytes(work, "native", 1) == 3 * 2 * padded * 16 * 2


@pytest.fixture(scope="module")
def pack_of_formats(random_model: Callable[..., Path], pack_of: Callable[..., Pack]) -> Callable[[Format], Pack]:
    directory = random_model("llama", intermediate_size=224)
    return lambda format: pack_of(directory, format, requested=format)


@pytest.mark.skipif(load() is None, reason="the native kernels are not built")
def test_a_pass_of_2048_tokens_takes_what_is_counted() -> None:
    """In a process of its own, so that nothing else grows: one block of each half, 1024 wide, all units."""
    result = subprocess.run(
        [sys.executable, "-c", _GROWTH], check=True, capture_output=True, text=True, env={"PYTHONPATH": _ROOT}
    )
    grown, counted = (int(number) for number in result.stdout.split())
    assert 0.9 * counted <= grown <= counted + (12 << 20)


_ROOT = str(Path(tpid.compute.native.__file__).parents[3])
_GROWTH = """
import numpy as np, psutil
from tpid.compute.backend import BlockBytes
from tpid.compute.native.library import Cores
from tpid.compute.native_backend import NativeBackend
from tpid.model.batch import Segment
from tpid.model.spec import Architecture, LayerSpec, ModelSpec, Rope
from tpid.model.weights import Format
from tpid.pack.geometry import *
from tpid.plan.footprint import Workload, activation_bytes, kv_bytes

TOKENS, HIDDEN = 2048, 1024
spec = ModelSpec(Architecture.LLAMA, HIDDEN, 1, 16, 4, 64, 4096, 600, TOKENS, 1e-5, (LayerSpec(Rope(1e4)),), True)
formats = {name: Format.W4 for name in ATTN_MATRICES + FFN_MATRICES}
blocks = {half: block_geometry(spec, half, formats) for half in Half}
units = {half: np.ones((g.n_units, g.stride_bytes), np.uint8) for half, g in blocks.items()}
vectors = {"attn_norm": np.ones(HIDDEN, np.float32), "ffn_norm": np.ones(HIDDEN, np.float32)}
share = Share(*(UnitRange(0, blocks[half].n_units) for half in Half))
cores = Cores(1)
x = np.zeros((TOKENS, HIDDEN), np.float32)
x += 1
before = psutil.Process().memory_info().rss
backend = NativeBackend(cores, spec, share, n_slots=1, context_tokens=TOKENS, max_pass_tokens=TOKENS)
prepared = {h: backend.prepare(BlockBytes(Block(0, h), blocks[h], 0, units[h], vectors)) for h in Half}
backend.begin((Segment(0, 0, TOKENS),))
first = backend.attention(prepared[Half.ATTN], x)
second = backend.ffn(prepared[Half.FFN], x)
grown = psutil.Process().memory_info().rss - before
attn, ffn = (blocks[half].n_units for half in Half)
one = Workload(spec, attn, ffn, 1, 1, 1, 1, 1, 1, 1, 1, 88, TOKENS, 1, TOKENS)
rows = 2 * 4 * HIDDEN * TOKENS  # of the four that a pass has, x was there and the embedded rows are not
counted = activation_bytes(one, "native", attn, ffn, coordinator=True) - rows + kv_bytes(one, "native", attn)
print(grown, counted)
"""

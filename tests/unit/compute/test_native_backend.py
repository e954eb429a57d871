"""The native backend against transformers: every architecture, world size, kernels and way to feed tokens."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional

from tpid.compute.backend import BlockBytes
from tpid.compute.forward import forward
from tpid.compute.lockstep import run_lockstep
from tpid.compute.native.library import Cores, kernel_names, load
from tpid.compute.native_backend import NativeBackend, NativeBlock, NativeHead
from tpid.compute.torch_backend import TorchBackend, TorchHead
from tpid.model.batch import Segment
from tpid.model.weights import F32, Format
from tpid.pack.embedding import EmbeddingRows
from tpid.pack.geometry import Block, Half, Share, UnitRange
from tpid.pack.reader import Pack, read_range

LIBRARY = load()
if LIBRARY is None:
    pytest.skip("the native kernels are not built", allow_module_level=True)

F16_TOLERANCE = 2e-3  # f16 weights meet fp32 activations: only the fp16 KV cache rounds
# By planes: activations of one int8, in a random model whose sums have 96 terms only; two lose less than the cache.
INT8_TOLERANCES = {1: 4e-2, 2: F16_TOLERANCE}
INT8_CACHE_TOLERANCE = 4e-2  # keys and values of one int8, as activations of one
ROUNDED_TOLERANCE = 4e-3  # against fp32 with the same rounding: where the fp16 cache tips it, the neighbour's step
N_TOKENS = 24
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama2": ("llama", {"tie_word_embeddings": False, "num_attention_heads": 3, "num_key_value_heads": 3}),
    "llama3.1": ("llama", {"tie_word_embeddings": False, "rope_parameters": LLAMA3_SCALING}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "smollm2": ("llama", {"tie_word_embeddings": True, "hidden_size": 144, "num_attention_heads": 9}),
    "odd sizes": ("llama", {"hidden_size": 100, "head_dim": 20, "num_attention_heads": 10, "num_key_value_heads": 5}),
    "mistral-window": ("mistral", {"sliding_window": 7}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2-window": ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen3": ("qwen3", {"tie_word_embeddings": False, "head_dim": 32}),
}
WAYS: dict[str, list[int]] = {
    "prefill at once": [N_TOKENS],
    "prefill in chunks": [7, 5, 12],
    "decode": [4] + [1] * (N_TOKENS - 4),
    "verify several tokens": [8, 1, 4, 1, 4, 6],
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def judged(request: pytest.FixtureRequest, random_model: Callable[..., Path], pack_of: Callable[..., Pack]) -> Any:
    """(pack in f16, packs in w4 and w8, token ids, transformers' logits in fp32)"""
    kind, config = ARCHITECTURES[request.param]
    directory = random_model(kind, **config)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    ids = torch.randint(0, 600, (1, N_TOKENS), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        logits = model(ids).logits[0].numpy()
    packs = {format: pack_of(directory, format, requested=format) for format in (Format.W4, Format.W4S, Format.W8)}
    return pack_of(directory), packs, ids[0].tolist(), logits


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_logits_equal_transformers(judged: Any, world_size: int) -> None:
    pack, _, ids, expected = judged
    ranks = Ranks(pack, _even_shares(pack, world_size), n_threads=1 + world_size % 2)
    for way, chunks in WAYS.items():
        assert _error(ranks.logits(ids, chunks), expected) <= F16_TOLERANCE, way


@pytest.mark.parametrize("planes", INT8_TOLERANCES)
@pytest.mark.parametrize("kernels", kernel_names(LIBRARY))
@pytest.mark.parametrize("format", [Format.W4, Format.W4S, Format.W8])
def test_int8_activations_stay_close_to_fp32(judged: Any, kernels: str, format: Format, planes: int) -> None:
    _, packs, ids, _ = judged
    shares = _even_shares(packs[format], 2)
    exact = Ranks(packs[format], shares, kernels=None).logits(ids, [N_TOKENS])
    ranks = Ranks(packs[format], shares, kernels=kernels, planes=planes)
    for way, chunks in WAYS.items():
        assert _error(ranks.logits(ids, chunks), exact) <= INT8_TOLERANCES[planes], way


@pytest.mark.parametrize("kernels", kernel_names(LIBRARY))
def test_an_int8_cache_stays_close_to_fp32(judged: Any, kernels: str) -> None:
    pack, _, ids, expected = judged
    ranks = Ranks(pack, _even_shares(pack, 2), kernels=kernels, int8_cache=True)
    for way, chunks in WAYS.items():
        assert _error(ranks.logits(ids, chunks), expected) <= INT8_CACHE_TOLERANCE, way


@pytest.mark.parametrize("int8_cache", [False, True])
@pytest.mark.parametrize("kernels", kernel_names(LIBRARY))
@pytest.mark.parametrize("format", [Format.W4, Format.W4S, Format.W8])
def test_the_bits_do_not_depend_on_how_tokens_are_fed(
    judged: Any, kernels: str, format: Format, *, int8_cache: bool
) -> None:
    """So that a cached prompt, a fresh one and a recomputed cache give the same text."""
    _, packs, ids, _ = judged
    pack = packs[format]
    if any(pack.spec.window_of(layer) for layer in range(pack.spec.n_layers)):
        pytest.skip("where a window begins decides how the cache is summed up")
    if any(matrix.format is not format for block in pack.manifest.blocks() for matrix in pack.geometry(block).matrices):
        pytest.skip("f16 products of one token and of several are summed up in another order")
    ranks = Ranks(pack, _even_shares(pack, 2), kernels=kernels, int8_cache=int8_cache)
    first, *others = (ranks.logits(ids, chunks) for chunks in WAYS.values())
    for logits in others:
        np.testing.assert_array_equal(logits, first)


@pytest.mark.parametrize("kernels", kernel_names(LIBRARY))
@pytest.mark.parametrize("format", [Format.W4, Format.W4S, Format.W8])
def test_a_block_equals_fp32_with_the_same_rounding(
    judged: Any, kernels: str, format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = judged[1][format]
    shares = _even_shares(pack, 1)
    native, reference = Ranks(pack, shares, kernels=kernels, planes=1), Ranks(pack, shares, kernels=None)
    x = np.random.default_rng(5).normal(size=(13, pack.spec.hidden_size)).astype(np.float32)
    unrounded = [w.matrices["o"].data_ptr() for w in reference.weights.values() if "o" in w.matrices]
    if pack.geometry(Block(0, Half.ATTN)).matrix("o").format is format:
        unrounded = []
    monkeypatch.setattr(functional, "linear", partial(_rounding_linear, functional.linear, unrounded))
    for half in Half:
        results = []
        for ranks in (native, reference):
            backend, weights = ranks.backends[0], ranks.weights[0, Block(1, half)]
            backend.begin((Segment(0, 0, len(x)),))
            results.append((backend.attention if half is Half.ATTN else backend.ffn)(weights, x))
        assert _error(*results) <= ROUNDED_TOLERANCE, half


def _rounding_linear(linear: Any, unrounded: list[int], x: Any, weight: Any, bias: Any = None) -> Any:
    """torch's linear with `x` rounded to int8 by groups of 32, unless the weight is f16."""
    if weight.data_ptr() not in unrounded:
        columns = x.shape[-1]
        groups = functional.pad(x, (0, -columns % 32)).unflatten(-1, (-1, 32))
        scale = groups.abs().amax(-1, keepdim=True) / 127
        whole = torch.where(scale > 0, groups / scale, 0).round()
        x = (whole * scale).flatten(-2)[..., :columns]
    return linear(x, weight, bias)


def test_shares_may_be_uneven_or_empty(judged: Any) -> None:
    pack, _, ids, expected = judged
    n_attn, n_ffn = (pack.geometry(Block(0, half)).n_units for half in Half)
    shares = [
        Share(UnitRange(0, 0), UnitRange(0, 1)),
        Share(UnitRange(0, 2), UnitRange(1, 1)),
        Share(UnitRange(2, n_attn), UnitRange(1, n_ffn)),
        Share(UnitRange(n_attn, n_attn), UnitRange(n_ffn, n_ffn)),
    ]
    assert _error(Ranks(pack, shares).logits(ids, [9, 15]), expected) <= F16_TOLERANCE


def test_sequences_in_one_pass_do_not_see_each_other(judged: Any) -> None:
    pack, _, ids, expected = judged
    ranks = Ranks(pack, _even_shares(pack, 2), n_slots=2)
    other = ids[::-1]
    ranks.step([(0, 0, ids[:10]), (1, 0, other[:5])])
    hidden = ranks.step([(1, 5, other[5:9]), (0, 10, ids[10:])])
    assert _error(ranks.head_logits(hidden[4:]), expected[10:]) <= F16_TOLERANCE


def test_a_position_that_is_written_again_forgets_what_was_there(judged: Any) -> None:
    pack, _, ids, expected = judged
    ranks = Ranks(pack, _even_shares(pack, 2))
    ranks.step([(0, 0, [*ids[:12], *([1] * 8)])])
    hidden = ranks.step([(0, 12, ids[12:])])
    assert _error(ranks.head_logits(hidden), expected[12:]) <= F16_TOLERANCE


class Ranks:
    """All ranks of a plan in this process, by the native backend, or by torch where `kernels` is None."""

    def __init__(
        self,
        pack: Pack,
        shares: list[Share],
        *,
        n_slots: int = 1,
        kernels: str | None = "best",
        n_threads: int = 2,
        planes: int = 2,
        int8_cache: bool = False,
    ) -> None:
        self.pack = pack
        geometry = pack.manifest.head_geometry
        units = read_range(pack.head_range()).reshape(geometry.n_units, geometry.stride_bytes)
        options = {"n_slots": n_slots, "context_tokens": 64}
        if kernels is None:
            self.backends: list[Any] = [TorchBackend(pack.spec, share, **options) for share in shares]
            self.head: Any = TorchHead(pack.spec, geometry, pack.final_norm())
        else:
            cores = Cores(n_threads, None if kernels == "best" else kernels, planes=planes)
            options |= {"max_pass_tokens": 40, "int8_cache": int8_cache}
            self.backends = [NativeBackend(cores, pack.spec, share, **options) for share in shares]
            self.head = NativeHead(cores, pack.spec, geometry, pack.final_norm())
        cut = geometry.n_units // 2  # in two slices, one of them empty for a small vocabulary
        self.slices = [self.head.prepare(part, first) for first, part in ((0, units[:cut]), (cut, units[cut:]))]
        self.weights = {
            (rank, block): _load(pack, backend, block, share.of(block.half))
            for rank, (backend, share) in enumerate(zip(self.backends, shares, strict=True))
            for block in pack.manifest.blocks()
        }

    def step(self, parts: list[tuple[int, int, list[int]]]) -> F32:
        """One pass over (slot, start, ids) of each sequence; final hidden states."""
        segments = tuple(Segment(slot, start, len(ids)) for slot, start, ids in parts)
        with EmbeddingRows(self.pack) as rows:
            hidden = rows.gather([id for _, _, ids in parts for id in ids])
        walks = [forward(backend, self.pack.spec.n_layers, hidden.copy(), segments) for backend in self.backends]
        return run_lockstep(walks, lambda rank, block: self.weights[rank, block])[0]

    def head_logits(self, hidden: F32) -> F32:
        return np.concatenate([self.head.logits(part, hidden) for part in self.slices], axis=1)

    def logits(self, ids: list[int], chunks: list[int]) -> F32:
        rows, start = [], 0
        for n in chunks:
            rows.append(self.head_logits(self.step([(0, start, ids[start : start + n])])))
            start += n
        return np.concatenate(rows)


def _error(logits: F32, expected: F32) -> float:
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


def _load(pack: Pack, backend: Any, block: Block, units: UnitRange) -> NativeBlock:
    geometry = pack.geometry(block)
    data = read_range(pack.block_range(block, units)).reshape(len(units), geometry.stride_bytes)
    data.flags.writeable = False
    prepared: NativeBlock = backend.prepare(BlockBytes(block, geometry, units.start, data, pack.vectors(block.layer)))
    return prepared


def _even_shares(pack: Pack, world_size: int) -> list[Share]:
    def cut(half: Half) -> list[UnitRange]:
        n_units = pack.geometry(Block(0, half)).n_units
        edges = [round(rank * n_units / world_size) for rank in range(world_size + 1)]
        return [UnitRange(edges[rank], edges[rank + 1]) for rank in range(world_size)]

    return [Share(attn, ffn) for attn, ffn in zip(cut(Half.ATTN), cut(Half.FFN), strict=True)]

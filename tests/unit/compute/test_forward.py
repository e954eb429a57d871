"""Logits against transformers: every architecture, world size and way to feed tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tpid.compute.backend import BlockBytes
from tpid.compute.forward import forward
from tpid.compute.lockstep import run_lockstep
from tpid.compute.torch_backend import TorchBackend, TorchBlock, TorchHead
from tpid.model.batch import Segment
from tpid.model.weights import F32
from tpid.pack.embedding import EmbeddingRows
from tpid.pack.geometry import Block, Half, Share, UnitRange
from tpid.pack.reader import Pack, read_range

TOLERANCE = 1e-4
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
    "llama3": ("llama", {"tie_word_embeddings": False, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}),
    "llama3.1": ("llama", {"tie_word_embeddings": False, "rope_parameters": LLAMA3_SCALING}),
    "llama3.2": ("llama", {"tie_word_embeddings": True, "rope_parameters": LLAMA3_SCALING}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-linear-rope": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    "smollm2": ("llama", {"tie_word_embeddings": True, "hidden_size": 144, "num_attention_heads": 9}),
    "mistral": ("mistral", {"sliding_window": None}),
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
    """(pack, token ids, transformers' logits in fp32)"""
    kind, config = ARCHITECTURES[request.param]
    directory = random_model(kind, **config)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    ids = torch.randint(0, 600, (1, N_TOKENS), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        logits = model(ids).logits[0].numpy()
    return pack_of(directory), ids[0].tolist(), logits


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_logits_equal_transformers(judged: Any, world_size: int) -> None:
    pack, ids, expected = judged
    ranks = Ranks(pack, _even_shares(pack, world_size))
    for way, chunks in WAYS.items():
        error = np.abs(ranks.logits(ids, chunks) - expected).max() / np.abs(expected).max()
        assert error <= TOLERANCE, f"{way}: relative error {error:.2e}"


def test_shares_may_be_uneven_or_empty(judged: Any) -> None:
    pack, ids, expected = judged
    n_attn, n_ffn = (pack.geometry(Block(0, half)).n_units for half in Half)
    shares = [
        Share(UnitRange(0, 0), UnitRange(0, 1)),
        Share(UnitRange(0, 2), UnitRange(1, 1)),
        Share(UnitRange(2, n_attn), UnitRange(1, n_ffn)),
        Share(UnitRange(n_attn, n_attn), UnitRange(n_ffn, n_ffn)),
    ]
    error = np.abs(Ranks(pack, shares).logits(ids, [9, 15]) - expected).max() / np.abs(expected).max()
    assert error <= TOLERANCE


def test_sequences_in_one_pass_do_not_see_each_other(judged: Any) -> None:
    pack, ids, expected = judged
    ranks = Ranks(pack, _even_shares(pack, 2), n_slots=2)
    other = ids[::-1]
    ranks.step([(0, 0, ids[:10]), (1, 0, other[:5])])
    hidden = ranks.step([(1, 5, other[5:9]), (0, 10, ids[10:])])
    logits = ranks.head_logits(hidden[4:])
    assert np.abs(logits - expected[10:]).max() / np.abs(expected).max() <= TOLERANCE


def test_a_position_that_is_written_again_forgets_what_was_there(judged: Any) -> None:
    pack, ids, expected = judged
    ranks = Ranks(pack, _even_shares(pack, 2))
    ranks.step([(0, 0, [*ids[:12], *([1] * 8)])])
    hidden = ranks.step([(0, 12, ids[12:])])
    assert np.abs(ranks.head_logits(hidden) - expected[12:]).max() / np.abs(expected).max() <= TOLERANCE


class Ranks:
    """All ranks of a plan in this process."""

    def __init__(self, pack: Pack, shares: list[Share], n_slots: int = 1) -> None:
        self.pack = pack
        self.backends = [TorchBackend(pack.spec, s, n_slots=n_slots, context_tokens=64) for s in shares]
        self.weights = {
            (rank, block): _load(pack, backend, block, share.of(block.half))
            for rank, (backend, share) in enumerate(zip(self.backends, shares, strict=True))
            for block in pack.manifest.blocks()
        }
        geometry = pack.manifest.head_geometry
        units = read_range(pack.head_range()).reshape(geometry.n_units, geometry.stride_bytes)
        self.head = TorchHead(pack.spec, geometry, pack.final_norm())
        cut = geometry.n_units // 2  # in two slices, one of them empty for a small vocabulary
        self.slices = [self.head.prepare(part, first) for first, part in ((0, units[:cut]), (cut, units[cut:]))]

    def step(self, parts: list[tuple[int, int, list[int]]]) -> F32:
        """One pass over (slot, start, ids) of each sequence; final hidden states."""
        segments = tuple(Segment(slot, start, len(ids)) for slot, start, ids in parts)
        with EmbeddingRows(self.pack) as rows:
            hidden = rows.gather([id for _, _, ids in parts for id in ids])
        walks = [forward(backend, self.pack.spec.n_layers, hidden.copy(), segments) for backend in self.backends]
        results = run_lockstep(walks, lambda rank, block: self.weights[rank, block])
        for result in results[1:]:
            np.testing.assert_array_equal(result, results[0])
        return results[0]

    def head_logits(self, hidden: F32) -> F32:
        return np.concatenate([self.head.logits(part, hidden) for part in self.slices], axis=1)

    def logits(self, ids: list[int], chunks: list[int]) -> F32:
        rows, start = [], 0
        for n in chunks:
            rows.append(self.head_logits(self.step([(0, start, ids[start : start + n])])))
            start += n
        return np.concatenate(rows)


def _load(pack: Pack, backend: TorchBackend, block: Block, units: UnitRange) -> TorchBlock:
    geometry = pack.geometry(block)
    data = read_range(pack.block_range(block, units)).reshape(len(units), geometry.stride_bytes)
    return backend.prepare(BlockBytes(block, geometry, units.start, data, pack.vectors(block.layer)))


def _even_shares(pack: Pack, world_size: int) -> list[Share]:
    def cut(half: Half) -> list[UnitRange]:
        n_units = pack.geometry(Block(0, half)).n_units
        edges = [round(rank * n_units / world_size) for rank in range(world_size + 1)]
        return [UnitRange(edges[rank], edges[rank + 1]) for rank in range(world_size)]

    return [Share(attn, ffn) for attn, ffn in zip(cut(Half.ATTN), cut(Half.FFN), strict=True)]

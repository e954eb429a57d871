"""The native backend against transformers: every architecture, world size, kernels and way to feed tokens."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from tests.ranks import CONTEXT_TOKENS, even_shares, native_ranks, torch_ranks, uneven_shares
from tests.unit.compute.architectures import (
    F16_TOLERANCE,
    INT8_CACHE_TOLERANCE,
    N_TOKENS,
    WAYS,
    judge,
    judge_directory,
    relative_error,
)
from tpid.compute.native.library import kernel_names, load
from tpid.model.batch import Segment
from tpid.model.weights import F32, Format
from tpid.pack.geometry import Block, Half
from tpid.pack.reader import Pack

LIBRARY = load()
if LIBRARY is None:
    pytest.skip("the native kernels are not built", allow_module_level=True)

# By planes: activations of one int8, in a random model whose sums have 96 terms only; two lose less than the cache.
INT8_TOLERANCES = {1: 4e-2, 2: F16_TOLERANCE}
KEY_BIAS_LOSS = 3e-3  # of perplexity, with keys and values of int8
ROUNDED_TOLERANCE = 4e-3  # against fp32 with the same rounding: where the fp16 cache tips it, the neighbour's step
ARCHITECTURES_HERE = (
    "llama2", "llama3.1", "llama-biases", "smollm2", "odd sizes", "mistral-window", "qwen2", "qwen2-window", "qwen3"
)  # fmt: skip


@pytest.fixture(scope="module", params=ARCHITECTURES_HERE)
def judged(request: pytest.FixtureRequest, random_model: Callable[..., Path], pack_of: Callable[..., Pack]) -> Any:
    """(pack in f16, packs in w4 and w8, token ids, transformers' logits in fp32)"""
    directory, ids, logits = judge(request.param, random_model)
    packs = {format: pack_of(directory, format, requested=format) for format in (Format.W4, Format.W4S, Format.W8)}
    return pack_of(directory), packs, ids, logits


@pytest.fixture(scope="module")
def exact(judged: Any) -> dict[Format, F32]:
    """Logits of the grouped packs, computed in fp32."""
    _, packs, ids, _ = judged
    return {format: torch_ranks(pack, even_shares(pack, 2)).logits(ids, [N_TOKENS]) for format, pack in packs.items()}


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_logits_equal_transformers(judged: Any, world_size: int) -> None:
    pack, _, ids, expected = judged
    ranks = native_ranks(pack, even_shares(pack, world_size), n_threads=1 + world_size % 2)
    for way, chunks in WAYS.items():
        assert relative_error(ranks.logits(ids, chunks), expected) <= F16_TOLERANCE, way


@pytest.mark.parametrize("planes", INT8_TOLERANCES)
@pytest.mark.parametrize("kernels", kernel_names(LIBRARY))
@pytest.mark.parametrize("format", [Format.W4, Format.W4S, Format.W8])
def test_int8_activations_stay_close_to_fp32(
    judged: Any, exact: dict[Format, F32], kernels: str, format: Format, planes: int
) -> None:
    _, packs, ids, _ = judged
    ranks = native_ranks(packs[format], even_shares(packs[format], 2), kernels=kernels, planes=planes)
    for way, chunks in WAYS.items():
        assert relative_error(ranks.logits(ids, chunks), exact[format]) <= INT8_TOLERANCES[planes], way


@pytest.mark.parametrize("kernels", kernel_names(LIBRARY))
def test_an_int8_cache_stays_close_to_fp32(judged: Any, kernels: str) -> None:
    pack, _, ids, expected = judged
    ranks = native_ranks(pack, even_shares(pack, 2), kernels=kernels, int8_cache=True)
    for way, chunks in WAYS.items():
        assert relative_error(ranks.logits(ids, chunks), expected) <= INT8_CACHE_TOLERANCE, way


@pytest.mark.parametrize("largest", [6, 200])  # as published models have them
def test_an_int8_cache_keeps_the_perplexity_of_keys_with_large_biases(
    largest: int, random_model: Callable[..., Path], pack_of: Callable[..., Pack]
) -> None:
    """Perplexity of what the model itself would write, against fp32: e to the mean divergence of each next token."""
    directory = random_model("qwen2", tie_word_embeddings=False)
    set_key_biases(directory, largest)
    ids, logits = judge_directory(directory, CONTEXT_TOKENS)
    expected = torch.log_softmax(torch.tensor(logits).double(), -1)
    pack = pack_of(directory)
    for kernels in kernel_names(LIBRARY):
        ranks = native_ranks(pack, even_shares(pack, 2), kernels=kernels, int8_cache=True)
        found = torch.log_softmax(torch.tensor(ranks.logits(ids, [40, 1, 23])).double(), -1)
        divergence = (expected.exp() * (expected - found)).sum(-1).mean()
        assert torch.expm1(divergence) <= KEY_BIAS_LOSS, kernels


def set_key_biases(directory: Path, largest: float) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if name.endswith("k_proj.bias"):
            tensors[name] = (tensor * (largest / tensor.abs().max())).half().float()
    save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize("int8_cache", [False, True])
@pytest.mark.parametrize("kernels", kernel_names(LIBRARY))
@pytest.mark.parametrize("format", [Format.W4, Format.W4S, Format.W8])
def test_the_bits_do_not_depend_on_how_tokens_are_fed(
    judged: Any, kernels: str, format: Format, *, int8_cache: bool
) -> None:
    """So that a cached prompt, a fresh one and a recomputed cache give the same text."""
    _, packs, ids, _ = judged
    pack = packs[format]
    if any(layer.window_tokens for layer in pack.spec.pattern):
        pytest.skip("where a window begins decides how the cache is summed up")
    if any(matrix.format is not format for block in pack.manifest.blocks() for matrix in pack.geometry(block).matrices):
        pytest.skip("f16 products of one token and of several are summed up in another order")
    ranks = native_ranks(pack, even_shares(pack, 2), kernels=kernels, int8_cache=int8_cache)
    first, *others = (ranks.logits(ids, chunks) for chunks in WAYS.values())
    for logits in others:
        np.testing.assert_array_equal(logits, first)


@pytest.mark.parametrize("kernels", kernel_names(LIBRARY))
@pytest.mark.parametrize("format", [Format.W4, Format.W4S, Format.W8])
def test_a_block_equals_fp32_with_the_same_rounding(
    judged: Any, kernels: str, format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = judged[1][format]
    shares = even_shares(pack, 1)
    native, reference = native_ranks(pack, shares, kernels=kernels, planes=1), torch_ranks(pack, shares)
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
        assert relative_error(*results) <= ROUNDED_TOLERANCE, half


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
    assert relative_error(native_ranks(pack, uneven_shares(pack)).logits(ids, [9, 15]), expected) <= F16_TOLERANCE


def test_sequences_in_one_pass_do_not_see_each_other(judged: Any) -> None:
    pack, _, ids, expected = judged
    ranks = native_ranks(pack, even_shares(pack, 2), n_slots=2)
    other = ids[::-1]
    ranks.step([(0, 0, ids[:10]), (1, 0, other[:5])])
    hidden = ranks.step([(1, 5, other[5:9]), (0, 10, ids[10:])])
    assert relative_error(ranks.head_logits(hidden[4:]), expected[10:]) <= F16_TOLERANCE


def test_a_position_that_is_written_again_forgets_what_was_there(judged: Any) -> None:
    pack, _, ids, expected = judged
    ranks = native_ranks(pack, even_shares(pack, 2))
    ranks.step([(0, 0, [*ids[:12], *([1] * 8)])])
    hidden = ranks.step([(0, 12, ids[12:])])
    assert relative_error(ranks.head_logits(hidden), expected[12:]) <= F16_TOLERANCE

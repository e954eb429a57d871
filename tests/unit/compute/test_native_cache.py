"""The KV cache in fp16 and int8, against exact attention within the bound that rounding keys and values explains."""

from collections.abc import Mapping
from dataclasses import replace

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from tpid.compute.backend import BlockBytes
from tpid.compute.native.library import Cores, kernel_names, load
from tpid.compute.native_backend import NativeBackend
from tpid.model.batch import Segment
from tpid.model.rope import inverse_frequencies
from tpid.model.spec import Architecture, LayerSpec, ModelSpec, Rope
from tpid.model.weights import F32, Format, quantize
from tpid.pack.geometry import ATTN_MATRICES, Block, Half, Share, UnitRange, attn_geometry
from tpid.pack.tiles import pack_tiles

LIBRARY = load()
if LIBRARY is None:
    pytest.skip("the native kernels are not built", allow_module_level=True)

CORES = {name: Cores(1, name) for name in kernel_names(LIBRARY)}
ROPE = Rope(10000.0)
LAYER = LayerSpec(ROPE)
N_TOKENS = 90  # more than a run of keys
FP32_ANGLE = N_TOKENS * 2.0**-22  # how far fp32 turns a number from where it should be, and sums of them in scores
ROUNDING = 1e-5  # of fp32, in a block of sums with 64 terms


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("kernels", CORES)
@hypothesis.given(
    head_dim=st.sampled_from([16, 44, 64]), seed=st.integers(0, 2**32 - 1), bias=st.sampled_from([0, 5, 200])
)
@hypothesis.settings(max_examples=15)
def test_attention_within_the_bound(kernels: str, head_dim: int, seed: int, bias: int, *, int8: bool) -> None:
    """Biases of any size add nothing to what int8 loses: they lie outside the cache."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((N_TOKENS, head_dim), np.float32) * np.exp(rng.standard_normal(head_dim, np.float32))
    key_bias, value_bias = bias * rng.uniform(-1, 1, (2, head_dim)).astype(np.float32)
    if not int8:
        key_bias[:] = 0  # it lies in a cache of fp16, whose steps it makes larger
    result = attention(kernels, x, int8=int8, biases={"k_bias": key_bias, "v_bias": value_bias} if bias else {})
    normed = x / np.sqrt((x.astype(np.float64) ** 2).mean(axis=1, keepdims=True) + 1e-5)
    queries, values = rotated(normed) / np.sqrt(head_dim), normed + value_bias
    keys = rotated(normed + key_bias)
    scores = queries @ keys.T
    scores[np.triu_indices(N_TOKENS, 1)] = -np.inf
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    key_error, value_error = rounding(rotated(normed), int8=int8), rounding(normed, int8=int8)
    key_error += np.abs(rotated(np.abs(key_bias)[None] + 0 * normed)) * FP32_ANGLE
    # Where a score is off by d at most, a weight is off by a factor between e^-2d and e^2d: numerator and sum.
    off = np.expm1(2 * (np.abs(queries) @ key_error.T).max(axis=1, keepdims=True))
    bound = off * (weights @ (np.abs(normed) + value_error)) + value_error.max(axis=0) + ROUNDING * (1 + bias)
    assert np.all(np.abs(result - weights @ values) <= bound)
    assert off.max() < 0.5, "a bound that says nothing"


def test_int8_is_what_it_says() -> None:
    x = np.random.default_rng(1).standard_normal((N_TOKENS, 64), np.float32)
    best = next(iter(CORES))
    difference = np.abs(attention(best, x, int8=True) - attention(best, x, int8=False)).max()
    assert 1e-4 < difference < 2e-2


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("kernels", CORES)
def test_what_is_not_finite_stays_so(kernels: str, *, int8: bool) -> None:
    x = np.ones((N_TOKENS, 64), np.float32)
    x[70, 3] = np.nan
    finite = np.isfinite(attention(kernels, x, int8=int8)).all(axis=1)
    assert not finite[70:].any()
    assert finite[:64].all()


def rounding(x: F32, *, int8: bool) -> F32:
    """How far a number in the cache may be off: half a step of int8 and the fp16 of the scale, or fp16."""
    if not int8:
        return np.abs(x) * 2.0**-11 + 2.0**-25
    padded = np.pad(np.abs(x), ((0, 0), (0, -x.shape[1] % 32)))
    largest = padded.reshape(len(x), -1, 32).max(axis=-1).repeat(32, axis=1)[:, : x.shape[1]]
    return largest * (1 / 254 + 2.0**-11) + 127 * 2.0**-25


def rotated(x: F32) -> F32:
    half = x.shape[1] // 2
    angles = np.outer(np.arange(len(x)), inverse_frequencies(ROPE, x.shape[1], N_TOKENS).astype(np.float64))
    low, high = x[:, :half], x[:, half:]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=1)


def spec_of(head_dim: int) -> ModelSpec:
    """One head as wide as the residual stream."""
    return ModelSpec(Architecture.LLAMA, head_dim, 1, 1, 1, head_dim, 32, 8, N_TOKENS, 1e-5, (LAYER,), tied_head=True)


def attention(kernels: str, x: F32, *, int8: bool, biases: Mapping[str, F32] | None = None) -> F32:
    """Where Q, K, V and O are the identity: what attention makes of the normed `x`, with `biases` of K and V."""
    spec = replace(spec_of(x.shape[1]), pattern=(replace(LAYER, qkv_bias=bool(biases)),))
    geometry = attn_geometry(spec, dict.fromkeys(ATTN_MATRICES, Format.F16))
    identity = pack_tiles(quantize(np.eye(spec.head_dim, dtype=np.float32), Format.F16))
    units = np.zeros((1, geometry.stride_bytes), np.uint8)
    for matrix in geometry.matrices:
        units[0, matrix.offset_bytes :][: matrix.size_bytes] = identity
    backend = NativeBackend(
        CORES[kernels], spec, Share(UnitRange(0, 1), UnitRange(0, 0)),
        n_slots=1, context_tokens=N_TOKENS, max_pass_tokens=N_TOKENS, int8_cache=int8,
    )  # fmt: skip
    vectors = {"attn_norm": np.ones(spec.hidden_size, np.float32), **(biases or {})}
    weights = backend.prepare(BlockBytes(Block(0, Half.ATTN), geometry, 0, units, vectors))
    parts = []
    for start, stop in ((0, 70), (70, 71), (71, N_TOKENS)):
        backend.begin((Segment(0, start, stop - start),))
        part = backend.attention(weights, x[start:stop])
        assert part is not None
        parts.append(part)
    return np.concatenate(parts)

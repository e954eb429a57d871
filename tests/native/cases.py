"""Random cases for check_kernels.c: matrix products, and blocks in passes over a cache, with what must come out.

A product is judged by the exact one and the bound for rounding its activations; a block by the portable kernels of
this machine, which other tests hold against transformers.
"""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np

from tests.matrices import random_matrix, sums_apart
from tests.native.bounds import bound
from tpid.compute.backend import BlockBytes
from tpid.compute.native.library import FORMAT_NUMBERS, Cores
from tpid.compute.native_backend import NativeBackend, key_frequencies, native_shape
from tpid.model.batch import Segment
from tpid.model.rope import angle_tables, inverse_frequencies
from tpid.model.spec import Architecture, Gate, LayerSpec, ModelSpec, Rope
from tpid.model.weights import F32, Format
from tpid.pack.geometry import (
    ATTN_MATRICES,
    FFN_MATRICES,
    Block,
    Half,
    Share,
    UnitGeometry,
    UnitRange,
    block_geometry,
)
from tpid.pack.tiles import U8, pack_tiles

# Of the largest number of a pass. Where another order of summation tips a rounding, the result is one step of it off:
# of int8 activations or of an int8 cache, or of the second plane's and of the halves in the cache.
BLOCK_TOLERANCES = {1: 2e-2, 2: 1e-3}
LIMITS = {"n_slots": 3, "context_tokens": 150, "max_pass_tokens": 80}
_FORMATS = list(Format)
_KINDS = {Half.ATTN: 1, Half.FFN: 2}


def write_cases(path: Path, seed: int, *, n_products: int, n_blocks: int) -> None:
    """`n_blocks` of each half."""
    rng = np.random.default_rng(seed)
    cases = [_product(rng) for _ in range(n_products)] + [_block(rng, half) for _ in range(n_blocks) for half in Half]
    path.write_bytes(_numbers(len(cases)) + b"".join(cases))


def _numbers(*numbers: int) -> bytes:
    return np.array(numbers, "<i4").tobytes()


def _floats(*arrays: F32) -> bytes:
    return b"".join(np.ascontiguousarray(array, "<f4").tobytes() for array in arrays)


def _normal(rng: np.random.Generator, *shape: int) -> F32:
    return rng.standard_normal(shape, np.float32)


def _product(rng: np.random.Generator) -> bytes:
    format = _FORMATS[rng.integers(len(_FORMATS))]
    rows, columns = int(rng.integers(1, 70)), int(rng.choice([*range(1, 130), 256, 640]))
    n_units, n_tokens = int(rng.integers(1, 4)), int(rng.choice([*range(1, 20), 64, 65, 71, 130]))
    n_wanted = int(rng.integers((n_units - 1) * rows + 1, n_units * rows + 1))
    planes, n_threads, normed = int(rng.integers(1, 3)), int(rng.integers(1, 4)), bool(rng.random() < 0.3)
    scale = np.float32(10.0 ** rng.integers(-3, 3))
    parts = [random_matrix(rng, rows, columns, format, float(scale)) for _ in range(n_units)]
    units = np.stack([pack_tiles(part) for part in parts])
    x = _normal(rng, n_tokens, columns) * np.float32(10.0 ** rng.integers(-6, 6))
    norm = _normal(rng, columns)
    exact = x.astype(np.float64)
    if normed:
        exact *= norm / np.sqrt((exact**2).mean(axis=1, keepdims=True) + np.float32(1e-5))
    weights = np.concatenate([part.dequantize()[:, :columns] for part in parts])[:n_wanted].astype(np.float64)
    apart = [sums_apart(part) for part in parts]
    minimums = None if apart[0] is None else np.concatenate(apart)[:n_wanted, :columns].astype(np.float64)  # type: ignore[arg-type]
    expected, allowed = exact @ weights.T, bound(weights, minimums, exact, format, planes) + 1e-30
    if normed:  # the norm is rounded too
        allowed += 1e-5 * (np.abs(exact) @ np.abs(weights).T)
    if rng.random() < 0.2:  # one token is not finite, and leaves the others alone
        bad = rng.integers(n_tokens)
        x[bad, rng.integers(columns)] = rng.choice([np.nan, np.inf, -np.inf])
        expected[bad] = np.nan
    head = _numbers(
        *(0, FORMAT_NUMBERS[format], rows, columns, n_units, n_wanted, units.shape[1]),
        *(n_tokens, planes, n_threads, int(normed)),
    )
    return head + units.tobytes() + _floats(norm if normed else norm[:0], x, expected, allowed)


def _block(rng: np.random.Generator, half: Half) -> bytes:
    spec = _spec(rng)
    one, mixed = _FORMATS[rng.integers(len(_FORMATS))], bool(rng.random() < 0.4)
    formats = {
        name: _FORMATS[rng.integers(len(_FORMATS))] if mixed else one for name in (*ATTN_MATRICES, *FFN_MATRICES)
    }
    geometries = {each: block_geometry(spec, each, formats) for each in Half}
    ranges = {each: _range(rng, geometries[each].n_units, at_least=each is half) for each in Half}
    share, geometry, units = Share(ranges[Half.ATTN], ranges[Half.FFN]), geometries[half], ranges[half]
    planes, n_threads, int8_cache = int(rng.integers(1, 3)), int(rng.integers(1, 4)), bool(rng.integers(2))
    portable = NativeBackend(Cores(1, "portable", planes=planes), spec, share, **LIMITS, int8_cache=int8_cache)
    data, vectors = _units(rng, geometry, len(units)), _vectors(rng, spec, geometry, half)
    block = portable.prepare(BlockBytes(Block(0, half), geometry, units.start, data, vectors))
    lengths, passes = [0] * LIMITS["n_slots"], []
    for _ in range(rng.integers(1, 5)):
        segments = _segments(rng, lengths)
        x = _normal(rng, sum(segment.n_tokens for segment in segments), spec.hidden_size)
        portable.begin(segments)
        expected = (portable.attention if half is Half.ATTN else portable.ffn)(block, x)
        assert expected is not None
        allowed = np.full_like(expected, np.abs(expected).max() * BLOCK_TOLERANCES[1 if int8_cache else planes])
        passes.append(_segment_bytes(spec, segments) + _floats(x, expected, allowed))
    head = _numbers(_KINDS[half], planes, n_threads) + bytes(native_shape(spec, share, **LIMITS, int8_cache=int8_cache))
    frequencies = key_frequencies(spec, share, LIMITS["context_tokens"]) if int8_cache else None
    head += _numbers(0) if frequencies is None else _numbers(frequencies.size) + _floats(frequencies)
    return head + _block_bytes(spec, geometry, block.block, data) + _numbers(len(passes)) + b"".join(passes)


def _spec(rng: np.random.Generator) -> ModelSpec:
    n_kv_heads = int(rng.integers(1, 5))
    return ModelSpec(
        Architecture.LLAMA,
        hidden_size=int(rng.choice([8, 32, 60, 96, 100, 136])),
        n_layers=1,
        n_heads=n_kv_heads * int(rng.integers(1, 6)),
        n_kv_heads=n_kv_heads,
        head_dim=int(rng.choice([2, 8, 14, 16, 20, 32, 64])),
        ffn_size=int(rng.choice([*range(1, 200), *[3840] * 40, *[6400] * 40])),  # units of 1, 3 and 5 tiles
        vocab_size=8,
        context_tokens=LIMITS["context_tokens"],
        norm_eps=1e-5,
        pattern=(_layer(rng),),
        tied_head=True,
    )


def _layer(rng: np.random.Generator) -> LayerSpec:
    return LayerSpec(
        Rope(10000.0, magnitude=0.8) if rng.random() < 0.8 else None,
        window_tokens=int(rng.integers(1, 90)) if rng.integers(2) else None,
        attention_scale=float(rng.uniform(0.05, 0.5)) if rng.integers(2) else None,
        attention_softcap=float(rng.uniform(1, 50)) if rng.random() < 0.3 else None,
        qkv_bias=bool(rng.integers(2)),
        ffn_bias=bool(rng.integers(2)),
        qk_norm=bool(rng.integers(2)),
        gate=Gate.GELU_TANH if rng.integers(2) else Gate.SILU,
    )


def _range(rng: np.random.Generator, n_units: int, *, at_least: int) -> UnitRange:
    start = int(rng.integers(n_units))
    return UnitRange(start, int(rng.integers(start + at_least, min(start + 6, n_units) + 1)))


def _segments(rng: np.random.Generator, lengths: list[int]) -> tuple[Segment, ...]:
    """New tokens of some sequences, more than a chunk of them at times; some go back over what was there."""
    segments: list[Segment] = []
    for slot in rng.permutation(len(lengths))[: rng.integers(1, len(lengths) + 1)]:
        start = int(rng.integers(lengths[slot] + 1)) if rng.random() < 0.2 else lengths[slot]
        left = LIMITS["max_pass_tokens"] - sum(segment.n_tokens for segment in segments)
        n_tokens = min(int(rng.choice([1, 1, 2, 5, 8, 17, 70])), left, LIMITS["context_tokens"] - start)
        if n_tokens > 0:
            segments.append(Segment(int(slot), start, n_tokens))
            lengths[slot] = start + n_tokens
    return tuple(segments) or (Segment(0, 0, 1),)


def _units(rng: np.random.Generator, geometry: UnitGeometry, n_units: int) -> U8:
    units = np.zeros((n_units, geometry.stride_bytes), np.uint8)
    for unit in units:
        for matrix in geometry.matrices:
            size = 1 / np.sqrt(matrix.columns)
            values = random_matrix(rng, matrix.rows, matrix.columns, matrix.format, size)
            unit[matrix.offset_bytes :][: matrix.size_bytes] = pack_tiles(values)
    return units


def _vectors(rng: np.random.Generator, spec: ModelSpec, geometry: UnitGeometry, half: Half) -> dict[str, F32]:
    layer = spec.layer(0)
    biased = (layer.qkv_bias and ("q", "k", "v")) if half is Half.ATTN else (layer.ffn_bias and ("gate", "up"))
    sizes = {f"{name}_bias": geometry.n_units * geometry.matrix(name).rows for name in biased or ()}
    sizes |= {"attn_norm": spec.hidden_size, "ffn_norm": spec.hidden_size}
    sizes |= {"q_norm": spec.head_dim, "k_norm": spec.head_dim} if layer.qk_norm else {}
    return {name: _normal(rng, size) for name, size in sizes.items()}


def _block_bytes(spec: ModelSpec, geometry: UnitGeometry, block: Any, units: U8) -> bytes:
    """As C reads it, but the units end where their last matrix does, so that no byte beyond it is there to be read."""
    end = max(matrix.offset_bytes + matrix.size_bytes for matrix in geometry.matrices)
    fields = ((m.format, m.rows, m.columns, m.offset) for m in block.matrices)
    parts = [
        _numbers(len(units), 0, block.window, block.rope, block.gate),
        _scales(block),
        _numbers(end),
        *(_numbers(*field) for field in fields),
    ]
    parts.append(np.ascontiguousarray(units[:, :end]).tobytes())
    rows = [len(units) * matrix.rows for matrix in geometry.matrices[:3]]
    pointers = [block.norm, *block.biases, block.q_norm, block.k_norm]
    for pointer, size in zip(pointers, [spec.hidden_size, *rows, spec.head_dim, spec.head_dim], strict=True):
        parts.append(_numbers(size if pointer else 0) + (ctypes.string_at(pointer, 4 * size) if pointer else b""))
    return b"".join(parts)


def _scales(block: Any) -> bytes:
    return np.array([block.scale, block.softcap], "<f4").tobytes()


def _segment_bytes(spec: ModelSpec, segments: tuple[Segment, ...]) -> bytes:
    positions = np.concatenate([np.arange(s.start, s.start + s.n_tokens, dtype=np.float32) for s in segments])
    frequencies = [inverse_frequencies(rope, spec.head_dim, LIMITS["context_tokens"]) for rope in spec.ropes]
    cos, sin = angle_tables(spec.ropes, frequencies, positions)
    numbers = [number for s in segments for number in (s.slot, s.start, s.n_tokens)]
    return _numbers(len(segments), *numbers) + _floats(cos, sin)

"""What a token of decode pays for attention over a long cache, by what the cache is kept in.

    python benchmarks/attention.py [--context 8192] [--kernels NAME] [--json]

The attention half of one layer, one thread, behind a cache of `context` tokens; hidden is 64 wide, so that projections
cost next to nothing. Keys with biases are those of Qwen2's family: an int8 cache holds them without. The least of many
runs, in turns, so that all meet the same mood of the machine.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from tpid.compute.backend import BlockBytes
from tpid.compute.native.library import Cores
from tpid.compute.native_backend import NativeBackend
from tpid.model.batch import Segment
from tpid.model.spec import Architecture, LayerSpec, ModelSpec, Rope
from tpid.model.weights import F32, Format
from tpid.pack.geometry import ATTN_MATRICES, Block, Half, Share, UnitRange, attn_geometry

HIDDEN, PASS_TOKENS, ROUNDS = 64, 512, 100
SHAPES = {  # (query heads, KV heads, head_dim)
    "qwen2.5-0.5b": (14, 2, 64),
    "smollm2-135m": (9, 3, 64),
    "llama-3-8b": (32, 8, 128),
    "8 heads of 64, each its own": (8, 8, 64),
}
CACHES = {"f16": (False, False), "int8": (True, False), "int8, key biases": (True, True)}  # (int8, biases)


@dataclass(frozen=True, slots=True)
class Row:
    shape: str
    microseconds: dict[str, float]  # of a token, by the cache


class Decode:
    """One layer's attention with a full cache."""

    def __init__(
        self, cores: Cores, heads: tuple[int, int, int], context_tokens: int, *, int8: bool, bias: bool
    ) -> None:
        n_heads, n_kv_heads, head_dim = heads
        spec = ModelSpec(
            Architecture.QWEN2, HIDDEN, 1, n_heads, n_kv_heads, head_dim, 64, 64, context_tokens + 1, 1e-5,
            (LayerSpec(Rope(1e6), qkv_bias=bias),), tied_head=True,
        )  # fmt: skip
        geometry = attn_geometry(spec, dict.fromkeys(ATTN_MATRICES, Format.W4))
        share = Share(UnitRange(0, geometry.n_units), UnitRange(0, 0))
        self._backend = NativeBackend(
            cores, spec, share, n_slots=1, context_tokens=context_tokens + 1, max_pass_tokens=PASS_TOKENS,
            int8_cache=int8,
        )  # fmt: skip
        units = np.ones((geometry.n_units, geometry.stride_bytes), np.uint8)
        vectors = dict(_vectors(spec, bias=bias))
        self._weights = self._backend.prepare(BlockBytes(Block(0, Half.ATTN), geometry, 0, units, vectors))
        self._x = np.random.default_rng(1).standard_normal((PASS_TOKENS, HIDDEN), np.float32)
        for start in range(0, context_tokens, PASS_TOKENS):
            n_tokens = min(PASS_TOKENS, context_tokens - start)
            self._backend.begin((Segment(0, start, n_tokens),))
            self._backend.attention(self._weights, self._x[:n_tokens])
        self._backend.begin((Segment(0, context_tokens, 1),))

    def seconds(self) -> float:
        started = time.perf_counter()
        self._backend.attention(self._weights, self._x[:1])
        return time.perf_counter() - started


def _vectors(spec: ModelSpec, *, bias: bool) -> Iterator[tuple[str, F32]]:
    yield "attn_norm", np.ones(HIDDEN, np.float32)
    for name, heads in (("q", spec.n_heads), ("k", spec.n_kv_heads), ("v", spec.n_kv_heads)) if bias else ():
        yield f"{name}_bias", np.ones(heads * spec.head_dim, np.float32)


def measure(cores: Cores, shape: str, context_tokens: int) -> Row:
    decodes = {
        name: Decode(cores, SHAPES[shape], context_tokens, int8=int8, bias=bias)
        for name, (int8, bias) in CACHES.items()
    }
    times: dict[str, list[float]] = {name: [] for name in CACHES}
    for _ in range(ROUNDS):
        for name, decode in decodes.items():
            times[name].append(decode.seconds())
    return Row(shape, {name: 1e6 * min(found) for name, found in times.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=8192, help="tokens in the cache")
    parser.add_argument("--kernels", help="an instruction set, by default the best")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    cores = Cores(1, arguments.kernels)
    rows = [measure(cores, shape, arguments.context) for shape in SHAPES]
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    print(f"{cores.kernels}, us a token and layer behind {arguments.context} tokens")
    print(f"{'shape':<28}" + "".join(f"{name:>18}" for name in CACHES))
    for row in rows:
        print(f"{row.shape:<28}" + "".join(f"{row.microseconds[name]:>18.0f}" for name in CACHES))


if __name__ == "__main__":
    main()

"""A pass: one walk through all layers, for any number of new tokens of any sequences.

The walk is a generator. It yields what it needs and is sent the answer, so that it knows neither disk
nor sockets nor asyncio: the engine answers it, or the lock-step driver, which runs all ranks in one process.
Prefill, decode and verification of drafted tokens are this same code.
"""

from collections.abc import Generator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from tpid.compute.backend import Backend, Weights
from tpid.model.batch import Segment
from tpid.model.weights import F32
from tpid.pack.geometry import Block, Half


@dataclass(frozen=True, slots=True)
class NeedBlock:
    """Answer: the block's weights, as the backend prepared them."""

    block: Block


@dataclass(frozen=True, slots=True)
class Reduce:
    """Answer: the sum of all ranks' partials, [n_tokens, hidden] fp32."""

    step: int  # counts the allreduces of the pass
    partial: F32 | None


Need: TypeAlias = NeedBlock | Reduce
Pass: TypeAlias = Generator[Need, Any, F32]  # the type of an answer depends on what was asked


def forward(backend: Backend[Weights], n_layers: int, hidden: F32, segments: tuple[Segment, ...]) -> Pass:
    """Walk `hidden` [n_tokens, hidden] fp32, changed in place, through the layers and return it.

    Every rank adds the very same sums to its own copy, so that the copies stay identical.
    """
    backend.begin(segments)
    for step, need in enumerate(_blocks(n_layers)):
        weights: Weights = yield need
        compute = backend.attention if need.block.half is Half.ATTN else backend.ffn
        weights.output.add((yield Reduce(step, compute(weights, hidden))), hidden)
    return hidden


@lru_cache(maxsize=4)  # one model at a time: nothing is made between a sum and the next block
def _blocks(n_layers: int) -> tuple[NeedBlock, ...]:
    return tuple(NeedBlock(Block(layer, half)) for layer in range(n_layers) for half in (Half.ATTN, Half.FFN))

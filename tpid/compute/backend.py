"""What a backend does: the two halves of a decoder layer, for the units of one rank."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from tpid.model.batch import Segment
from tpid.model.spec import ModelSpec
from tpid.model.weights import F32
from tpid.pack.geometry import Block, Half, UnitGeometry
from tpid.pack.tiles import U8


@dataclass(frozen=True, slots=True)
class BlockBytes:
    """A rank's share of a block, as it lies in the pack."""

    block: Block
    geometry: UnitGeometry
    first_unit: int
    units: U8  # [n_units of the share, stride]
    vectors: Mapping[str, F32]  # the layer's norms and biases, whole


@dataclass(frozen=True, slots=True)
class Output:
    """What becomes of the sum of all ranks' partials before it joins the residual stream."""

    bias: F32 | None = None  # [hidden]
    norm: F32 | None = None  # [hidden]: RMSNorm, of the biased sum
    norm_eps: float = 0.0
    scale: float = 1.0

    def add(self, total: F32, hidden: F32) -> None:
        """`hidden` [n_tokens, hidden] += what `total` gives: the same bits on every rank, whatever its processor."""
        if self.norm is None and self.scale == 1.0:
            hidden += total
            if self.bias is not None:
                hidden += self.bias
            return
        for start in range(0, len(hidden), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            part = total[rows] if self.bias is None else total[rows] + self.bias
            if self.norm is not None:
                squares = np.square(part, dtype=np.float64).mean(axis=1, keepdims=True)
                part = part * (1 / np.sqrt(squares + self.norm_eps)).astype(np.float32) * self.norm
            hidden[rows] += part * np.float32(self.scale)


_ROWS_AT_ONCE = 16  # bounds what an output takes beside the pass's own buffers


def output_of(spec: ModelSpec, block: BlockBytes) -> Output:
    half, vectors = block.block.half, block.vectors
    return Output(
        bias=vectors.get("o_bias" if half is Half.ATTN else "down_bias"),
        norm=vectors.get(f"{half}_output_norm"),
        norm_eps=spec.norm_eps,
        scale=spec.layer(block.block.layer).residual_scale,
    )


class BlockWeights(Protocol):
    """A block in the form that its backend computes with."""

    @property
    def output(self) -> Output: ...


Weights = TypeVar("Weights", bound=BlockWeights)


class Backend(Protocol[Weights]):
    """Computes a share; holds the KV cache of its heads. Not thread-safe: one pass at a time."""

    def prepare(self, block: BlockBytes) -> Weights:
        """The block, ready to compute with; it may go on using `block.units`."""
        ...

    def begin(self, segments: tuple[Segment, ...]) -> None:
        """The rows of `x` in the calls that follow are the tokens of these segments, in order."""
        ...

    def attention(self, weights: Weights, x: F32) -> F32 | None:
        """Partial of the attention half, [n_tokens, hidden] fp32; appends K and V to the cache.

        `x` is the residual stream, before the norm. None where the share has no KV group.
        """
        ...

    def ffn(self, weights: Weights, x: F32) -> F32 | None:
        """Partial of the FFN half, [n_tokens, hidden] fp32. None where the share has no columns."""
        ...


def finished_logits(logits: F32, spec: ModelSpec) -> F32:
    """The products of the head [n, rows], scaled and capped in place as the model asks."""
    if spec.logit_scale != 1.0:
        logits *= np.float32(spec.logit_scale)
    if spec.logit_softcap is not None:
        logits /= np.float32(spec.logit_softcap)
        np.tanh(logits, out=logits)
        logits *= np.float32(spec.logit_softcap)
    return logits


HeadWeights = TypeVar("HeadWeights")


class Head(Protocol[HeadWeights]):
    """Final norm and LM head, on the coordinator, in slices of whole units."""

    def prepare(self, units: U8, first_unit: int) -> HeadWeights:
        """A slice, ready to compute with: units [n_units of it, stride] uint8 of the head or the tied embedding."""
        ...

    def logits(self, weights: HeadWeights, hidden: F32) -> F32:
        """hidden [n, hidden] fp32, only the rows that need logits -> [n, rows of the slice] fp32

        The last slice ends with the vocabulary.
        """
        ...

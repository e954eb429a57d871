"""What a backend does: the two halves of a decoder layer, for the units of one rank."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from tpid.model.batch import Segment
from tpid.model.weights import F32
from tpid.pack.geometry import Block, UnitGeometry
from tpid.pack.tiles import U8


@dataclass(frozen=True, slots=True)
class BlockBytes:
    """A rank's share of a block, as it lies in the pack."""

    block: Block
    geometry: UnitGeometry
    first_unit: int
    units: U8  # [n_units of the share, stride]
    vectors: Mapping[str, F32]  # the layer's norms and biases, whole


class BlockWeights(Protocol):
    """A block in the form that its backend computes with."""

    @property
    def output_bias(self) -> F32 | None:
        """[hidden], added once to the sum of all ranks' partials."""
        ...


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

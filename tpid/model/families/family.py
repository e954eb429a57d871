"""What a family of models is: switches read from two kinds of files, and the names that its tensors have there."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tpid.model.families.config import Config
from tpid.model.families.metadata import Metadata
from tpid.model.spec import Architecture, LayerSpec


@dataclass(frozen=True, slots=True)
class Features:
    """What tells a model apart beyond its sizes."""

    layers: tuple[LayerSpec, ...]  # of each layer; one alone stands for all
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float | None = None


class RowOrder(StrEnum):
    """Which dimensions of a head RoPE turns together, in the rows of Q and K as they are published."""

    HALVES = "halves"  # i and i + rotary_dims / 2 ("NeoX")
    PAIRS = "pairs"  # 2 i and 2 i + 1


@dataclass(frozen=True, slots=True)
class Family:
    """`config_names` and `gguf_names` say how tensors of a layer are called where the common tables do not fit.

    Several tensors of one published name lie in it one behind the other, as in a fused QKV.
    """

    architecture: Architecture
    title: str  # for people
    model_types: tuple[str, ...]  # of config.json
    gguf_types: tuple[str, ...]  # general.architecture
    from_config: Callable[[Config], Features]
    from_gguf: Callable[[Metadata], Features]
    config_defaults: Mapping[str, object] = field(default_factory=dict)  # where transformers has others than Llama's
    config_names: Mapping[str, str] = field(default_factory=dict)
    gguf_names: Mapping[str, str] = field(default_factory=dict)
    config_order: RowOrder = RowOrder.HALVES
    gguf_order: RowOrder = RowOrder.HALVES
    gguf_keys: frozenset[str] = frozenset()  # metadata that changes what is computed, and that the family reads
    norm_offset: float = 0.0  # what transformers adds to the weights of RMSNorms; GGUF files have it in them
    partial_rotary: bool = False  # RoPE may turn a part of each head

"""The architecture of a decoder, as numbers: one description a layer drives all supported models."""

from dataclasses import dataclass
from enum import StrEnum


class Architecture(StrEnum):
    """Families of models; what tells their layers apart is in `LayerSpec`, not in the name."""

    LLAMA = "llama"  # Llama 2, 3, 3.1, 3.2, SmolLM2, TinyLlama
    MISTRAL = "mistral"
    QWEN2 = "qwen2"  # Qwen2, Qwen2.5
    QWEN3 = "qwen3"
    GEMMA2 = "gemma2"
    GEMMA3 = "gemma3"
    PHI3 = "phi3"  # Phi-3, Phi-3.5, Phi-4, Phi-4-mini
    SMOLLM3 = "smollm3"
    GRANITE = "granite"  # Granite 3 and 4, the dense ones
    GLM4 = "glm4"


class Norms(StrEnum):
    """Where a layer's RMSNorms of the residual stream are."""

    PRE = "pre"  # before each half
    SANDWICH = "sandwich"  # before each half, and on what it adds to the residual stream


class Gate(StrEnum):
    """The activation of the gated FFN."""

    SILU = "silu"
    GELU_TANH = "gelu_tanh"


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding (arXiv 2104.09864).

    The first `rotary_dims` dimensions of a head turn, None means all. The inverse frequency of their pair i is
    `theta ** (-2 i / rotary_dims) / factors[i]`; `factors` (rotary_dims / 2 of them) express linear, Llama 3 and YaRN
    scaling alike, None means all ones.
    """

    theta: float
    factors: tuple[float, ...] | None = None
    rotary_dims: int | None = None
    magnitude: float = 1.0  # what turns is multiplied by it
    long_factors: tuple[float, ...] | None = None  # LongRoPE: instead of `factors`, for a context that is longer than
    original_tokens: int | None = None  # this


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One decoder layer: grouped-query attention, then a gated FFN, each added to the residual stream.

    A mixture of experts would be one more field, of a type of its own; None is the dense FFN.
    """

    rope: Rope | None  # None: attention knows nothing of positions
    window_tokens: int | None = None  # attention sees this many positions, its own included
    attention_scale: float | None = None  # on scores; None: 1 / sqrt(head_dim)
    attention_softcap: float | None = None  # scores s become c * tanh(s / c)
    norms: Norms = Norms.PRE
    qk_norm: bool = False  # RMSNorm over each head of Q and K, before RoPE
    qkv_bias: bool = False
    o_bias: bool = False
    ffn_bias: bool = False  # on gate, up and down
    gate: Gate = Gate.SILU
    residual_scale: float = 1.0  # on what each half adds


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A decoder. Sizes are the same in all layers, so that a share is too."""

    architecture: Architecture
    hidden_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_size: int
    vocab_size: int
    context_tokens: int  # the longest sequence that the model was made for
    norm_eps: float
    pattern: tuple[LayerSpec, ...]  # repeats itself up to the last layer
    tied_head: bool  # the head's weights are the embedding's
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float | None = None  # logits s become c * tanh(s / c), after their scale

    def layer(self, index: int) -> LayerSpec:
        return self.pattern[index % len(self.pattern)]

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """Each once."""
        return tuple(dict.fromkeys(layer.rope for layer in self.pattern if layer.rope is not None))

    @property
    def key_bias_rope(self) -> Rope | None:
        """By what keys' biases are rotated, where all layers do it alike and no norm lies between: then they can be
        told apart from the products. None where not."""
        plain = all(layer.qkv_bias and not layer.qk_norm and layer.rope is not None for layer in self.pattern)
        return self.ropes[0] if plain and len(self.ropes) == 1 else None

    @property
    def heads_per_group(self) -> int:
        """Query heads that share one KV head."""
        return self.n_heads // self.n_kv_heads

    @property
    def n_parameters(self) -> int:
        """Of all weights, each counted once."""
        vocab = self.vocab_size * self.hidden_size * (1 if self.tied_head else 2)
        return sum(self._n_layer_parameters(self.layer(i)) for i in range(self.n_layers)) + vocab + self.hidden_size

    def _n_layer_parameters(self, layer: LayerSpec) -> int:
        q_size, kv_size = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        matrices = self.hidden_size * (2 * q_size + 2 * kv_size + 3 * self.ffn_size)
        norms = self.hidden_size * (4 if layer.norms is Norms.SANDWICH else 2) + 2 * self.head_dim * layer.qk_norm
        biases = (q_size + 2 * kv_size) * layer.qkv_bias + self.hidden_size * layer.o_bias
        return matrices + norms + biases + (2 * self.ffn_size + self.hidden_size) * layer.ffn_bias


def shortest_pattern(layers: tuple[LayerSpec, ...]) -> tuple[LayerSpec, ...]:
    """The start of `layers` that repeats itself to their end."""
    for length in range(1, len(layers)):
        if all(layer == layers[i % length] for i, layer in enumerate(layers)):
            return layers[:length]
    return layers

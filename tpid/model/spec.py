"""The architecture of a decoder, as numbers: one description drives all supported models."""

from dataclasses import dataclass
from enum import StrEnum


class Architecture(StrEnum):
    """Families whose block is the same up to the switches of `ModelSpec`."""

    LLAMA = "llama"  # Llama 2, 3, 3.1, 3.2, SmolLM2, TinyLlama
    MISTRAL = "mistral"
    QWEN2 = "qwen2"  # Qwen2, Qwen2.5
    QWEN3 = "qwen3"


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding (arXiv 2104.09864) in the half-split ("NeoX") order of dimensions.

    The inverse frequency of pair i is `theta ** (-2 i / head_dim) / factors[i]`;
    `factors` (head_dim / 2 of them) expresses linear and Llama 3 scaling alike, None means all ones.
    """

    theta: float
    factors: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A decoder of pre-norm blocks: RMSNorm, grouped-query attention, SiLU-gated FFN."""

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
    rope: Rope
    tied_head: bool  # the head's weights are the embedding's
    qkv_bias: bool = False
    o_bias: bool = False
    ffn_bias: bool = False  # on gate, up and down
    qk_norm: bool = False  # RMSNorm over each head of Q and K, before RoPE
    sliding_window_tokens: int | None = None  # attention sees this many positions, its own included
    first_sliding_layer: int = 0  # layers before this one see everything

    @property
    def has_plain_key_bias(self) -> bool:
        """Keys are rotated as a product plus a bias: no norm lies between, so that the bias can be told apart."""
        return self.qkv_bias and not self.qk_norm

    @property
    def heads_per_group(self) -> int:
        """Query heads that share one KV head."""
        return self.n_heads // self.n_kv_heads

    @property
    def n_parameters(self) -> int:
        """Of all weights, each counted once."""
        q_size, kv_size = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        attn = self.hidden_size * (2 * q_size + 2 * kv_size)
        ffn = 3 * self.hidden_size * self.ffn_size
        norms = 2 * self.hidden_size + (2 * self.head_dim if self.qk_norm else 0)
        biases = (q_size + 2 * kv_size) * self.qkv_bias + self.hidden_size * self.o_bias
        biases += (2 * self.ffn_size + self.hidden_size) * self.ffn_bias
        vocab = self.vocab_size * self.hidden_size * (1 if self.tied_head else 2)
        return self.n_layers * (attn + ffn + norms + biases) + vocab + self.hidden_size

    def window_of(self, layer: int) -> int | None:
        """The sliding window of `layer` in tokens, None where it sees everything."""
        return self.sliding_window_tokens if layer >= self.first_sliding_layer else None

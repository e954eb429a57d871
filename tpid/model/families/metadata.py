"""What families read of a GGUF file's metadata. Defaults are those of llama.cpp."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from tpid.errors import UnsupportedModelError
from tpid.model import limits
from tpid.model.fields import Fields
from tpid.model.rope import YarnScaling, linear_factors, yarn_factors, yarn_magnitude
from tpid.model.spec import Rope

SHORT_FACTORS, LONG_FACTORS = "rope_factors_short.weight", "rope_factors_long.weight"
ROPE_FREQS = "rope_freqs.weight"
FACTOR_TENSORS = (ROPE_FREQS, SHORT_FACTORS, LONG_FACTORS)


@dataclass(frozen=True, slots=True)
class Metadata:
    """All methods raise ModelFileError and UnsupportedModelError."""

    fields: Fields
    n_layers: int
    hidden_size: int
    n_heads: int
    head_dim: int
    context_tokens: int
    tensors: Collection[str]
    factors: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # by FACTOR_TENSORS

    @property
    def qkv_bias(self) -> bool:
        return "blk.0.attn_q.bias" in self.tensors

    @property
    def o_bias(self) -> bool:
        return "blk.0.attn_output.bias" in self.tensors

    @property
    def ffn_bias(self) -> bool:
        return "blk.0.ffn_gate.bias" in self.tensors

    def window(self, default: int = 0) -> int | None:
        """In tokens; 0 means none."""
        return self.fields.count("attention.sliding_window", default) or None

    def scale(self, key: str, default: float = 1.0) -> float:
        """0 stands for absence."""
        return self.fields.number(key, 0.0, limits.MAX_SCALE, default) or default

    def softcap(self, key: str, default: float | None = None) -> float | None:
        """0 stands for none."""
        return self.fields.number(key, 0.0, limits.MAX_SCALE, default or 0.0) or None

    def rope(self, theta: float = 10_000.0) -> Rope:
        """The one that `rope.*` describes; factors of a tensor and linear scaling multiply, as in llama.cpp."""
        theta = self.fields.number("rope.freq_base", limits.MIN_ROPE_THETA, limits.MAX_ROPE_THETA, theta)
        rotary_dims = self.fields.size("rope.dimension_count", limits.MAX_HEAD_DIM, self.head_dim)
        part = rotary_dims if rotary_dims != self.head_dim else None
        kind = self.fields.text("rope.scaling.type", "linear")
        if kind not in ("none", "linear", "yarn", "longrope"):
            raise UnsupportedModelError(
                f"{self.fields.where} scales RoPE by {kind[:40]!r}; tpid knows linear, llama3, yarn and longrope."
            )
        magnitude = self.fields.number("rope.scaling.attn_factor", limits.MIN_SCALE, limits.MAX_SCALE, 1.0)
        if LONG_FACTORS in self.factors:
            short, long = self.factors.get(SHORT_FACTORS), self.factors[LONG_FACTORS]
            return Rope(theta, short, part, magnitude, long, self._original_tokens())
        if kind == "longrope":
            raise UnsupportedModelError(f"{self.fields.where} scales RoPE by longrope, without {LONG_FACTORS}.")
        # "rope.scale_linear" is the older name of the key.
        key = "rope.scaling.factor" if self.fields.has("rope.scaling.factor") else "rope.scale_linear"
        factor = self.fields.number(key, 0.0, limits.MAX_ROPE_FACTOR, 0.0) or 1.0  # 0 and absence: no scaling
        freqs: Sequence[float] | None = self.factors.get(ROPE_FREQS)
        if kind == "yarn":
            return self._yarn(theta, rotary_dims, factor, magnitude)
        if kind == "none" or factor == 1.0:
            return Rope(theta, None if freqs is None else tuple(freqs), part, magnitude)
        if freqs is None:
            return Rope(theta, linear_factors(rotary_dims, factor), part, magnitude)
        return Rope(theta, tuple(factor * freq for freq in freqs), part, magnitude)

    def _yarn(self, theta: float, rotary_dims: int, factor: float, magnitude: float) -> Rope:
        yarn = YarnScaling(
            factor,
            self._original_tokens(),
            self.fields.number("rope.scaling.yarn_beta_fast", limits.MIN_SCALE, limits.MAX_SCALE, 32.0),
            self.fields.number("rope.scaling.yarn_beta_slow", limits.MIN_SCALE, limits.MAX_SCALE, 1.0),
        )
        part = rotary_dims if rotary_dims != self.head_dim else None
        factors = yarn_factors(rotary_dims, theta, yarn)
        return Rope(theta, factors, part, magnitude * yarn_magnitude(factor))

    def _original_tokens(self) -> int:
        key = "rope.scaling.original_context_length"
        return self.fields.size(key, limits.MAX_CONTEXT_TOKENS, self.context_tokens)

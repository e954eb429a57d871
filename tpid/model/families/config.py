"""What families read of a Hugging Face config.json.

Version 5 of transformers writes `rope_parameters` where older ones write `rope_theta` and `rope_scaling`: both are
read.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tpid.errors import ModelFileError, UnsupportedModelError
from tpid.model import limits
from tpid.model.fields import Fields
from tpid.model.rope import (
    Llama3Scaling,
    YarnScaling,
    linear_factors,
    llama3_factors,
    yarn_factors,
    yarn_magnitude,
)
from tpid.model.spec import Gate, Rope

SLIDING, FULL = "sliding_attention", "full_attention"

_GATES = {"silu": Gate.SILU, "swish": Gate.SILU, "gelu_pytorch_tanh": Gate.GELU_TANH}
_ORIGINAL = "original_max_position_embeddings"


@dataclass(frozen=True, slots=True)
class Config:
    """All methods raise ModelFileError and UnsupportedModelError."""

    fields: Fields
    n_layers: int
    hidden_size: int
    head_dim: int
    context_tokens: int
    partial_rotary: bool

    def gate(self, key: str = "hidden_act", default: str = "silu") -> Gate:
        activation = self.fields.text(key, default)
        if activation not in _GATES:
            raise UnsupportedModelError(
                f"{self.fields.where} activates by {activation[:40]!r}; tpid knows {', '.join(_GATES)}.",
                hint="Choose another model: the same one as GGUF would not run either.",
            )
        return _GATES[activation]

    def scale(self, key: str, default: float = 1.0) -> float:
        return self.fields.number(key, limits.MIN_SCALE, limits.MAX_SCALE, default)

    def softcap(self, key: str) -> float | None:
        return self.scale(key) if self.fields.has(key) else None

    def window(self, default: int = 4096) -> int | None:
        """In tokens; None where it is null, the default where nothing is said."""
        is_null = self.fields.names("sliding_window") and not self.fields.has("sliding_window")
        return None if is_null else self.fields.size("sliding_window", limits.MAX_CONTEXT_TOKENS, default)

    def kinds(self, default: Sequence[str]) -> Sequence[str]:
        """SLIDING or FULL, of each layer."""
        kinds = self.fields.raw("layer_types")
        if kinds is None:
            return default
        if not isinstance(kinds, list) or len(kinds) != self.n_layers:
            raise ModelFileError(f"{self.fields.where} says layer_types that are not a list of {self.n_layers}.")
        for kind in kinds:
            if kind not in (SLIDING, FULL):
                raise UnsupportedModelError(
                    f"{self.fields.where} has layers of kind {str(kind)[:40]!r} (layer_types), which tpid cannot run."
                )
        return kinds

    def rope(self, parameters: object = None, theta: float = 10_000.0) -> Rope:
        """`parameters` stand for `rope_parameters`; `theta` is the default."""
        # Someone who adds the old key to a new config means it: so does transformers.
        fields = self.fields
        if parameters is None:
            parameters = fields.raw("rope_scaling") or fields.raw("rope_parameters") or {}
        if not isinstance(parameters, dict):
            raise ModelFileError(f"{fields.where} says rope parameters that are not an object.")
        if any(isinstance(value, dict) for value in parameters.values()):
            raise UnsupportedModelError(f"{fields.where} has RoPE of several kinds, which tpid cannot run.")
        scaling = Fields(parameters, f"{fields.where}, rope parameters,")
        holder = scaling if scaling.has("rope_theta") else fields
        theta = holder.number("rope_theta", limits.MIN_ROPE_THETA, limits.MAX_ROPE_THETA, theta)
        rotary_dims = self._rotary_dims(scaling)
        kind = scaling.text("rope_type", scaling.text("type", "default"))
        plain = Rope(theta, rotary_dims=rotary_dims if rotary_dims != self.head_dim else None)
        return self._scaled(kind, plain, rotary_dims, scaling)

    def _rotary_dims(self, scaling: Fields) -> int:
        holder = next((f for f in (scaling, self.fields) if f.has("partial_rotary_factor")), self.fields)
        part = holder.number("partial_rotary_factor", 0.0, 1.0, 1.0)
        if part != 1.0 and not self.partial_rotary:
            raise UnsupportedModelError(
                f"{self.fields.where} turns a part of each head by RoPE; tpid needs all of it in this family."
            )
        return int(self.head_dim * part)

    def _scaled(self, kind: str, rope: Rope, rotary_dims: int, scaling: Fields) -> Rope:
        where = self.fields.where
        if kind == "default":
            return rope
        if kind == "linear":
            return _with_factors(rope, linear_factors(rotary_dims, _factor(scaling, "factor")))
        if kind == "llama3":
            return _with_factors(rope, llama3_factors(rotary_dims, rope.theta, self._llama3(scaling)))
        if kind == "yarn":
            return self._yarn(rope, rotary_dims, scaling)
        if kind in ("longrope", "su"):
            return self._longrope(rope, scaling)
        raise UnsupportedModelError(
            f"{where} scales RoPE by {kind[:40]!r}; tpid knows linear, llama3, yarn and longrope."
        )

    def _llama3(self, scaling: Fields) -> Llama3Scaling:
        low, high = _factor(scaling, "low_freq_factor"), _factor(scaling, "high_freq_factor")
        if low >= high:
            raise ModelFileError(f"{scaling.where} says low_freq_factor {low:g}, not below high_freq_factor {high:g}.")
        return Llama3Scaling(_factor(scaling, "factor"), low, high, self._original_tokens(scaling))

    def _yarn(self, rope: Rope, rotary_dims: int, scaling: Fields) -> Rope:
        original = self._original_tokens(scaling, self.context_tokens)
        factor = _factor(scaling, "factor") if scaling.has("factor") else self.context_tokens / original
        yarn = YarnScaling(
            factor,
            original,
            scaling.number("beta_fast", limits.MIN_SCALE, limits.MAX_SCALE, 32.0),
            scaling.number("beta_slow", limits.MIN_SCALE, limits.MAX_SCALE, 1.0),
            scaling.flag("truncate", True),
        )
        magnitude = yarn_magnitude(factor)
        if scaling.has("mscale") and scaling.has("mscale_all_dim"):
            weights = [_factor(scaling, key) for key in ("mscale", "mscale_all_dim")]
            magnitude = yarn_magnitude(factor, weights[0]) / yarn_magnitude(factor, weights[1])
        magnitude = scaling.number("attention_factor", limits.MIN_SCALE, limits.MAX_SCALE, magnitude)
        return _with_factors(rope, yarn_factors(rotary_dims, rope.theta, yarn), magnitude)

    def _longrope(self, rope: Rope, scaling: Fields) -> Rope:
        original = self._original_tokens(scaling, self.context_tokens)
        factor = _factor(scaling, "factor") if scaling.has("factor") else self.context_tokens / original
        magnitude = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 and original > 1 else 1.0
        magnitude = scaling.number("attention_factor", limits.MIN_SCALE, limits.MAX_SCALE, magnitude)
        short, long = (_numbers(scaling, key) for key in ("short_factor", "long_factor"))
        return Rope(rope.theta, short, rope.rotary_dims, magnitude, long, original)

    def _original_tokens(self, scaling: Fields, default: int | None = None) -> int:
        holder = self.fields if self.fields.has(_ORIGINAL) else scaling  # as transformers has it
        return holder.size(_ORIGINAL, limits.MAX_CONTEXT_TOKENS, default)


def _with_factors(rope: Rope, factors: tuple[float, ...], magnitude: float = 1.0) -> Rope:
    return Rope(rope.theta, factors, rope.rotary_dims, magnitude)


def _factor(scaling: Fields, key: str) -> float:
    return scaling.number(key, limits.MIN_ROPE_FACTOR, limits.MAX_ROPE_FACTOR)


def _numbers(scaling: Fields, key: str) -> tuple[float, ...]:
    values = scaling.raw(key)
    if not isinstance(values, list) or len(values) > limits.MAX_HEAD_DIM // 2:
        raise ModelFileError(f"{scaling.where} says {key} that is not a list of RoPE factors.")
    factors = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ModelFileError(f"{scaling.where} says {key} with {str(value)[:40]!r}, which is not a number.")
        if not limits.MIN_ROPE_FACTOR <= value <= limits.MAX_ROPE_FACTOR:
            raise ModelFileError(f"{scaling.where} says {key} with {str(value)[:40]}, which is out of all bounds.")
        factors.append(float(value))
    return tuple(factors)

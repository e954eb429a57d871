"""From a Hugging Face config.json to the architecture's numbers.

Defaults are those of transformers' configuration classes. Version 5 writes `rope_parameters` where
older ones write `rope_theta` and `rope_scaling`; both are read.
"""

from collections.abc import Mapping

from tpid.errors import ModelFileError, UnsupportedModelError
from tpid.model import limits
from tpid.model.fields import Fields
from tpid.model.rope import Llama3Scaling, linear_factors, llama3_factors
from tpid.model.spec import Architecture, ModelSpec, Rope

_QWEN = (Architecture.QWEN2, Architecture.QWEN3)
_DEFAULT_QWEN3_HEAD_DIM = 128
_DEFAULT_WINDOW_TOKENS = 4096
_REFUSED: Mapping[str, str] = {
    "quantization_config": "weights quantized by another tool",
    "num_local_experts": "a mixture of experts",
    "num_experts": "a mixture of experts",
    "use_mrope": "positions of several dimensions",
    "vision_config": "a part that sees",
}


def read_spec(config: Mapping[str, object], where: str) -> ModelSpec:
    """Raises ModelFileError and UnsupportedModelError."""
    fields = Fields(config, where)
    architecture = _architecture(fields)
    hidden_size = fields.size("hidden_size", limits.MAX_HIDDEN)
    n_heads = fields.size("num_attention_heads", limits.MAX_HEADS)
    n_layers = fields.size("num_hidden_layers", limits.MAX_LAYERS)
    head_dim = _head_dim(fields, architecture, hidden_size, n_heads)
    window, first_sliding_layer = _sliding_window(fields, architecture, n_layers)
    has_attention_bias = architecture is not Architecture.MISTRAL and fields.flag("attention_bias", False)
    return ModelSpec(
        architecture=architecture,
        hidden_size=hidden_size,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=fields.size("num_key_value_heads", limits.MAX_HEADS, n_heads),
        head_dim=head_dim,
        ffn_size=fields.size("intermediate_size", limits.MAX_FFN),
        vocab_size=fields.size("vocab_size", limits.MAX_VOCAB),
        context_tokens=fields.size("max_position_embeddings", limits.MAX_CONTEXT_TOKENS),
        norm_eps=fields.number("rms_norm_eps", limits.MIN_NORM_EPS, limits.MAX_NORM_EPS, 1e-6),
        rope=_rope(fields, head_dim),
        tied_head=fields.flag("tie_word_embeddings", False),
        qkv_bias=architecture is Architecture.QWEN2 or has_attention_bias,
        o_bias=architecture is not Architecture.QWEN2 and has_attention_bias,
        ffn_bias=architecture is Architecture.LLAMA and fields.flag("mlp_bias", False),
        qk_norm=architecture is Architecture.QWEN3,
        sliding_window_tokens=window,
        first_sliding_layer=first_sliding_layer,
    )


def _architecture(fields: Fields) -> Architecture:
    name = fields.text("model_type")
    try:
        architecture = Architecture(name)
    except ValueError:
        known = ", ".join(Architecture)
        raise UnsupportedModelError(f"{fields.where} is of type {name[:60]!r}; tpid runs {known}.") from None
    for key, what in _REFUSED.items():
        if fields.raw(key) not in (None, False, 0):
            raise UnsupportedModelError(
                f"{fields.where} has {what} ({key}), which tpid cannot run.",
                hint="Take the model as published before it was quantized, or a GGUF file of it."
                if key == "quantization_config"
                else None,
            )
    activation = fields.text("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise UnsupportedModelError(f"{fields.where} activates by {activation[:40]!r}; tpid knows silu.")
    return architecture


def _head_dim(fields: Fields, architecture: Architecture, hidden_size: int, n_heads: int) -> int:
    """Explicit, or the hidden size divided among the heads."""
    if fields.has("head_dim"):
        return fields.size("head_dim", limits.MAX_HEAD_DIM)
    if architecture is Architecture.QWEN3:
        return _DEFAULT_QWEN3_HEAD_DIM
    if hidden_size % n_heads or hidden_size // n_heads > limits.MAX_HEAD_DIM:
        raise ModelFileError(f"{fields.where}: {hidden_size} dimensions cannot be divided among {n_heads} heads.")
    return hidden_size // n_heads


def _sliding_window(fields: Fields, architecture: Architecture, n_layers: int) -> tuple[int | None, int]:
    """Window in tokens, None where there is none, and the first layer that has it."""
    is_null = fields.names("sliding_window") and not fields.has("sliding_window")
    has_window = architecture is not Architecture.LLAMA and not is_null
    if architecture in _QWEN:
        has_window = has_window and fields.flag("use_sliding_window", False)
    first = _first_sliding_layer(fields, architecture, n_layers) if has_window else n_layers
    if first >= n_layers:
        return None, 0
    return fields.size("sliding_window", limits.MAX_CONTEXT_TOKENS, _DEFAULT_WINDOW_TOKENS), first


def _first_sliding_layer(fields: Fields, architecture: Architecture, n_layers: int) -> int:
    kinds = fields.raw("layer_types")
    if not isinstance(kinds, list):
        return fields.count("max_window_layers", 28) if architecture in _QWEN else 0
    first = kinds.index("sliding_attention") if "sliding_attention" in kinds else n_layers
    if kinds != ["full_attention"] * first + ["sliding_attention"] * (n_layers - first):
        raise UnsupportedModelError(
            f"{fields.where} mixes kinds of attention in layer_types; tpid runs full attention, then sliding."
        )
    return first


def _rope(fields: Fields, head_dim: int) -> Rope:
    # Someone who adds the old key to a new config means it: so does transformers.
    parameters = fields.raw("rope_scaling") or fields.raw("rope_parameters") or {}
    if not isinstance(parameters, dict):
        raise ModelFileError(f"{fields.where} says rope parameters that are not an object.")
    scaling = Fields(parameters, f"{fields.where}, rope parameters,")
    rotary_part = next((f for f in (scaling, fields) if f.has("partial_rotary_factor")), fields)
    if rotary_part.number("partial_rotary_factor", 0.0, 1.0, 1.0) != 1.0:
        raise UnsupportedModelError(f"{fields.where} turns a part of each head by RoPE; tpid needs all of it.")
    holder = scaling if scaling.has("rope_theta") else fields
    theta = holder.number("rope_theta", limits.MIN_ROPE_THETA, limits.MAX_ROPE_THETA, 10_000.0)
    kind = scaling.text("rope_type", scaling.text("type", "default")) if parameters else "default"
    if kind == "default" and any(isinstance(value, dict) for value in parameters.values()):
        raise UnsupportedModelError(f"{fields.where} has RoPE of several kinds, which tpid cannot run.")
    if kind == "default":
        return Rope(theta)
    if kind == "linear":
        return Rope(theta, linear_factors(head_dim, _factor(scaling, "factor")))
    if kind == "llama3":
        return Rope(theta, llama3_factors(head_dim, theta, _llama3_scaling(fields, scaling)))
    raise UnsupportedModelError(f"{fields.where} scales RoPE by {kind[:40]!r}; tpid knows linear and llama3.")


def _llama3_scaling(fields: Fields, scaling: Fields) -> Llama3Scaling:
    low, high = _factor(scaling, "low_freq_factor"), _factor(scaling, "high_freq_factor")
    if low >= high:
        raise ModelFileError(f"{scaling.where} says low_freq_factor {low:g}, not below high_freq_factor {high:g}.")
    key = "original_max_position_embeddings"
    original_tokens = (scaling if scaling.has(key) else fields).size(key, limits.MAX_CONTEXT_TOKENS)
    return Llama3Scaling(_factor(scaling, "factor"), low, high, original_tokens)


def _factor(scaling: Fields, key: str) -> float:
    return scaling.number(key, limits.MIN_ROPE_FACTOR, limits.MAX_ROPE_FACTOR)

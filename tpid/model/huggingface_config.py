"""From a Hugging Face config.json to the architecture's numbers.

Defaults are those of transformers' configuration classes. Version 5 writes `rope_parameters` where
older ones write `rope_theta` and `rope_scaling`; both are read.
"""

from collections.abc import Mapping

from tpid.errors import ModelFileError, UnsupportedModelError
from tpid.model import limits
from tpid.model.fields import Fields
from tpid.model.mistaken import adapter_error
from tpid.model.rope import Llama3Scaling, linear_factors, llama3_factors
from tpid.model.spec import Architecture, ModelSpec, Rope

_QWEN = (Architecture.QWEN2, Architecture.QWEN3)
_DEFAULT_QWEN3_HEAD_DIM = 128
_DEFAULT_WINDOW_TOKENS = 4096
_REFUSED: Mapping[str, str] = {
    "num_local_experts": "a mixture of experts",
    "num_experts": "a mixture of experts",
    "use_mrope": "positions of several dimensions",
}
_OTHER_PARTS = ("vision_config", "audio_config", "text_config")
_OTHER_TASKS = (
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMaskedLM",
    "ForRewardModel",
)
_FAMILIES = "Choose a model of one of these families; the same one as GGUF would not run either."


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
    _refuse_other_kinds(fields)
    name = fields.text("model_type")
    try:
        architecture = Architecture(name)
    except ValueError:
        known = ", ".join(Architecture)
        raise UnsupportedModelError(
            f"{fields.where} is of type {name[:60]!r}; tpid runs {known}.", hint=_FAMILIES
        ) from None
    _refuse_quantized(fields)
    for key, what in _REFUSED.items():
        if _says(fields, key):
            raise UnsupportedModelError(f"{fields.where} has {what} ({key}), which tpid cannot run.", hint=_FAMILIES)
    activation = fields.text("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise UnsupportedModelError(
            f"{fields.where} activates by {activation[:40]!r}; tpid knows silu.", hint=_FAMILIES
        )
    return architecture


def _refuse_other_kinds(fields: Fields) -> None:
    """What has a config.json and is no plain model of text. Raises UnsupportedModelError and ModelFileError."""
    parts = [key for key in _OTHER_PARTS if _says(fields, key)]
    if parts:
        text = fields.raw("text_config")
        inner = text.get("model_type") if isinstance(text, dict) else None
        of_type = f"; its text part is of type {str(inner)[:40]!r}" if inner else ""
        raise UnsupportedModelError(
            f"{fields.where} is of a model of several parts ({', '.join(parts)}), which also sees or hears{of_type}.",
            hint="tpid runs models of text alone: take the text model that this one was made from.",
        )
    if fields.has("peft_type"):
        raise adapter_error(fields.where)
    tasks = fields.raw("architectures")
    task = tasks[0] if isinstance(tasks, list) and tasks and isinstance(tasks[0], str) else ""
    if task.endswith(_OTHER_TASKS):
        raise UnsupportedModelError(
            f"{fields.where} is of a model that judges text and writes none ({task[:80]}).",
            hint="Choose a model that chats or completes text (…ForCausalLM).",
        )
    if not fields.has("model_type"):
        raise ModelFileError(
            f"{fields.where} does not say model_type.",
            hint="It is not the config.json of a language model for transformers: check that it is the right file.",
        )


def _refuse_quantized(fields: Fields) -> None:
    for key in ("quantization", "quantization_config"):  # MLX writes both
        if not _says(fields, key):
            continue
        settings = fields.raw(key)
        method = settings.get("quant_method") if isinstance(settings, dict) else None
        by = str(method)[:40] if method else "MLX" if key == "quantization" else "another tool"
        raise UnsupportedModelError(
            f"{fields.where} is of weights quantized by {by} ({key}), which tpid cannot run.",
            hint="Take the model from before that (its page names it), or a GGUF file of it, such as Q4_K_M.",
        )


def _says(fields: Fields, key: str) -> bool:
    return fields.raw(key) not in (None, False, 0, {})


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

"""From a Hugging Face config.json to the architecture's numbers.

Defaults are those of transformers' configuration classes.
"""

from collections.abc import Mapping

from tpid.errors import ModelFileError, UnsupportedModelError
from tpid.model import limits
from tpid.model.families import BY_MODEL_TYPE, unknown_family
from tpid.model.families.config import Config
from tpid.model.families.family import Family
from tpid.model.families.missing import MISSING
from tpid.model.fields import Fields
from tpid.model.mistaken import adapter_error
from tpid.model.spec import ModelSpec, shortest_pattern

_REFUSED: Mapping[str, str] = {
    "num_local_experts": "a mixture of experts",
    "num_experts": "a mixture of experts",
    "use_mrope": "positions of several dimensions",
    "use_bidirectional_attention": "attention that sees what comes later",
}
_OTHER_PARTS = ("vision_config", "audio_config", "text_config")
_OTHER_TASKS = (
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMaskedLM",
    "ForRewardModel",
)
_FAMILIES = "Choose a model of a family that tpid runs; the same one as GGUF would not run either."


def read_spec(config: Mapping[str, object], where: str) -> ModelSpec:
    """Raises ModelFileError and UnsupportedModelError."""
    family = _family(Fields(config, where))
    fields = Fields({**family.config_defaults, **config}, where)
    _refuse_unknown_kinds(fields)
    hidden_size = fields.size("hidden_size", limits.MAX_HIDDEN)
    n_heads = fields.size("num_attention_heads", limits.MAX_HEADS)
    n_layers = fields.size("num_hidden_layers", limits.MAX_LAYERS)
    head_dim = _head_dim(fields, hidden_size, n_heads)
    context_tokens = fields.size("max_position_embeddings", limits.MAX_CONTEXT_TOKENS)
    features = family.from_config(
        Config(fields, n_layers, hidden_size, head_dim, context_tokens, family.partial_rotary)
    )
    return ModelSpec(
        architecture=family.architecture,
        hidden_size=hidden_size,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=fields.size("num_key_value_heads", limits.MAX_HEADS, n_heads),
        head_dim=head_dim,
        ffn_size=fields.size("intermediate_size", limits.MAX_FFN),
        vocab_size=fields.size("vocab_size", limits.MAX_VOCAB),
        context_tokens=context_tokens,
        norm_eps=fields.number("rms_norm_eps", limits.MIN_NORM_EPS, limits.MAX_NORM_EPS, 1e-6),
        pattern=shortest_pattern(features.layers),
        tied_head=fields.flag("tie_word_embeddings", False),
        embedding_scale=features.embedding_scale,
        logit_scale=features.logit_scale,
        logit_softcap=features.logit_softcap,
    )


def _family(fields: Fields) -> Family:
    _refuse_other_kinds(fields)
    name = fields.text("model_type")
    family = BY_MODEL_TYPE.get(name)
    if family is None:
        raise unknown_family(fields.where, "type", name, _FAMILIES)
    return family


def _refuse_unknown_kinds(fields: Fields) -> None:
    _refuse_quantized(fields)
    for key, what in _REFUSED.items():
        if _says(fields, key):
            raise UnsupportedModelError(f"{fields.where} has {what} ({key}), which tpid cannot run.", hint=_FAMILIES)


def _refuse_other_kinds(fields: Fields) -> None:
    """What has a config.json and is no plain model of text. Raises UnsupportedModelError and ModelFileError."""
    parts = [key for key in _OTHER_PARTS if _says(fields, key)]
    if parts:
        text = fields.raw("text_config")
        inner = text.get("model_type") if isinstance(text, dict) else None
        if isinstance(inner, str) and inner in MISSING:
            raise unknown_family(fields.where, "type", inner, _FAMILIES)
        of_type = f"; its text part is of type {str(inner)[:40]!r}" if inner else ""
        or_gguf = ", or a GGUF file of this one, which holds its text alone" if inner in BY_MODEL_TYPE else ""
        raise UnsupportedModelError(
            f"{fields.where} is of a model of several parts ({', '.join(parts)}), which also sees or hears{of_type}.",
            hint=f"tpid runs models of text alone: take the text model that this one was made from{or_gguf}.",
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


def _head_dim(fields: Fields, hidden_size: int, n_heads: int) -> int:
    """Explicit, or the hidden size divided among the heads."""
    if fields.has("head_dim"):
        return fields.size("head_dim", limits.MAX_HEAD_DIM)
    if hidden_size % n_heads or hidden_size // n_heads > limits.MAX_HEAD_DIM:
        raise ModelFileError(f"{fields.where}: {hidden_size} dimensions cannot be divided among {n_heads} heads.")
    return hidden_size // n_heads

"""From GGUF metadata to the architecture's numbers.

Key names follow https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, defaults those of llama.cpp.
"""

from collections.abc import Mapping

from tpid.errors import ModelFileError, UnsupportedModelError
from tpid.model import limits
from tpid.model.families import BY_GGUF_TYPE, unknown_family
from tpid.model.families.family import Family
from tpid.model.families.metadata import Metadata
from tpid.model.fields import Fields
from tpid.model.gguf.container import GgufTensor
from tpid.model.mistaken import adapter_error
from tpid.model.spec import ModelSpec, shortest_pattern

_REFUSED: Mapping[str, str] = {
    "expert_count": "a mixture of experts",
    "attention.sliding_window_pattern": "a pattern of sliding windows",
    "attention.scale": "a scale of its own in attention",
    "embedding_scale": "a scale on its embedding",
    "residual_scale": "a scale on its residual stream",
    "logit_scale": "a scale on its logits",
}


def read_spec(
    where: str,
    metadata: Mapping[str, object],
    tensors: Mapping[str, GgufTensor],
    factors: Mapping[str, tuple[float, ...]],
) -> ModelSpec:
    """`factors` are the values of the tensors of FACTOR_TENSORS. Raises ModelFileError and UnsupportedModelError."""
    _refuse_other_files(where, Fields(metadata, where, "general."), tensors)
    name = Fields(metadata, where).text("general.architecture")
    family = BY_GGUF_TYPE.get(name)
    if family is None:
        hint = "Choose a model of one of the families that tpid runs, or what was made of one."
        raise unknown_family(where, "architecture", name, hint)
    fields = Fields(metadata, where, f"{name}.")
    _refuse_unknown_kinds(fields, family)
    hidden_size = fields.size("embedding_length", limits.MAX_HIDDEN)
    n_heads = fields.size("attention.head_count", limits.MAX_HEADS)
    head_dim = _head_dim(fields, hidden_size, n_heads, family)
    if not tensors:
        raise UnsupportedModelError(
            f"{where} holds no weights, only a vocabulary or settings.", hint="Import the model's own GGUF file."
        )
    embed = tensors.get("token_embd.weight")
    if embed is None:
        raise ModelFileError(f"{where} lacks tensor token_embd.weight.", hint="Take another conversion of the model.")
    if embed.shape[0] > limits.MAX_VOCAB:
        raise ModelFileError(f"{where} has a vocabulary of {embed.shape[0]} tokens, more than {limits.MAX_VOCAB}.")
    n_layers = fields.size("block_count", limits.MAX_LAYERS)
    context_tokens = fields.size("context_length", limits.MAX_CONTEXT_TOKENS)
    features = family.from_gguf(
        Metadata(fields, n_layers, hidden_size, n_heads, head_dim, context_tokens, tensors, factors)
    )
    return ModelSpec(
        architecture=family.architecture,
        hidden_size=hidden_size,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=fields.size("attention.head_count_kv", limits.MAX_HEADS, n_heads),
        head_dim=head_dim,
        ffn_size=fields.size("feed_forward_length", limits.MAX_FFN),
        vocab_size=embed.shape[0],
        context_tokens=context_tokens,
        norm_eps=fields.number("attention.layer_norm_rms_epsilon", limits.MIN_NORM_EPS, limits.MAX_NORM_EPS),
        pattern=shortest_pattern(features.layers),
        tied_head="output.weight" not in tensors,
        embedding_scale=features.embedding_scale,
        logit_scale=features.logit_scale,
        logit_softcap=features.logit_softcap,
    )


def _refuse_other_files(where: str, general: Fields, tensors: Mapping[str, GgufTensor]) -> None:
    """GGUF files that hold something else than a model of text. Raises UnsupportedModelError."""
    kind, architecture = general.text("type", "model"), general.text("architecture", "")
    if kind == "mmproj" or architecture == "clip":
        raise UnsupportedModelError(
            f"{where} is the part of a model that sees or hears (mmproj), without its language model.",
            hint="Import the other GGUF file that is published beside it: tpid runs text alone.",
        )
    if kind == "adapter" or any(name.endswith((".lora_a", ".lora_b")) for name in tensors):
        raise adapter_error(where)
    if kind == "imatrix":
        raise UnsupportedModelError(
            f"{where} says which weights of a model matter (an importance matrix), it is not the model.",
            hint="Import the model's own GGUF file.",
        )


def _head_dim(fields: Fields, hidden_size: int, n_heads: int, family: Family) -> int:
    """Explicit, or the hidden size divided among the heads; keys, values and RoPE must agree on it."""
    head_dim = fields.size("attention.key_length", limits.MAX_HEAD_DIM, max(hidden_size // n_heads, 1))
    if not fields.has("attention.key_length") and head_dim * n_heads != hidden_size:
        raise ModelFileError(f"{fields.where}: {hidden_size} dimensions cannot be divided among {n_heads} heads.")
    value_dim = fields.size("attention.value_length", limits.MAX_HEAD_DIM, head_dim)
    if value_dim != head_dim:
        raise UnsupportedModelError(
            f"{fields.where} has keys of {head_dim} and values of {value_dim} dimensions; tpid needs them equal."
        )
    rotary_dim = fields.size("rope.dimension_count", limits.MAX_HEAD_DIM, head_dim)
    if rotary_dim != head_dim and not family.partial_rotary:
        raise UnsupportedModelError(
            f"{fields.where} turns {rotary_dim} of {head_dim} dimensions by RoPE; this family needs all."
        )
    return head_dim


def _refuse_unknown_kinds(fields: Fields, family: Family) -> None:
    for key, what in _REFUSED.items():
        if key not in family.gguf_keys and fields.has(key) and fields.raw(key) != 0:
            raise UnsupportedModelError(f"{fields.where} has {what} ({key}), which tpid cannot run.")
    for key in ("feed_forward_length", "attention.head_count", "attention.head_count_kv"):
        value = fields.raw(key)
        if isinstance(value, list):
            raise UnsupportedModelError(f"{fields.where} has layers that differ in {key}, which tpid cannot run.")
    if not fields.flag("attention.causal", True):
        raise UnsupportedModelError(
            f"{fields.where} sees the whole text at once: it judges or embeds text, and writes none.",
            hint="Choose a model that chats or completes text.",
        )

"""Which tensors a model of a given spec has, of which shape, and whether a published model has them."""

from collections.abc import Collection, Mapping, Sequence

from tpid.errors import ModelFileError, UnsupportedModelError
from tpid.model.spec import LayerSpec, ModelSpec, Norms

Shape = tuple[int, ...]

_NAMED_AT_MOST = 4  # names in one message
_FOREIGN: Sequence[tuple[tuple[str, ...], str, str]] = [
    (
        ("lora_A.weight", "lora_B.weight", ".lora_a", ".lora_b"),
        "an adapter (LoRA)",
        "Merge it into its base model (merge_and_unload of peft), then import the result.",
    ),
    (
        (".qweight", ".qzeros", ".g_idx", ".absmax", ".weight_scale", ".weight_scale_inv", ".weight_packed", ".scales"),
        "weights quantized by another tool",
        "Take the model from before that (its page names it), or a GGUF file of it, such as Q4_K_M.",
    ),
]


def matrix_shapes(spec: ModelSpec) -> dict[str, Shape]:
    """[rows = outputs, columns = inputs] by the names of tpid.model.source; no `head` where it is tied."""
    table: dict[str, Shape] = {"embed": (spec.vocab_size, spec.hidden_size)}
    if not spec.tied_head:
        table["head"] = (spec.vocab_size, spec.hidden_size)
    layer = layer_matrix_shapes(spec)
    return table | {f"layers.{i}.{name}": shape for i in range(spec.n_layers) for name, shape in layer.items()}


def layer_matrix_shapes(spec: ModelSpec) -> dict[str, tuple[int, int]]:
    """[rows, columns] by the names that follow `layers.{i}.`"""
    q_size, kv_size = spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim
    return {
        "q": (q_size, spec.hidden_size),
        "k": (kv_size, spec.hidden_size),
        "v": (kv_size, spec.hidden_size),
        "o": (spec.hidden_size, q_size),
        "gate": (spec.ffn_size, spec.hidden_size),
        "up": (spec.ffn_size, spec.hidden_size),
        "down": (spec.hidden_size, spec.ffn_size),
    }


def vector_shapes(spec: ModelSpec) -> dict[str, Shape]:
    """[size] by the names of tpid.model.source."""
    in_layers: dict[str, Shape] = {
        f"layers.{i}.{name}": shape
        for i in range(spec.n_layers)
        for name, shape in layer_vector_shapes(spec, spec.layer(i)).items()
    }
    final: dict[str, Shape] = {"final_norm": (spec.hidden_size,)}
    return final | in_layers


def layer_vector_shapes(spec: ModelSpec, layer: LayerSpec) -> dict[str, tuple[int]]:
    """[size] of norms and biases by the names that follow `layers.{i}.`"""
    q_size, kv_size = spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim
    shapes = {"attn_norm": (spec.hidden_size,), "ffn_norm": (spec.hidden_size,)}
    if layer.norms is Norms.SANDWICH:
        shapes |= {"attn_output_norm": (spec.hidden_size,), "ffn_output_norm": (spec.hidden_size,)}
    if layer.qkv_bias:
        shapes |= {"q_bias": (q_size,), "k_bias": (kv_size,), "v_bias": (kv_size,)}
    if layer.o_bias:
        shapes |= {"o_bias": (spec.hidden_size,)}
    if layer.ffn_bias:
        shapes |= {"gate_bias": (spec.ffn_size,), "up_bias": (spec.ffn_size,), "down_bias": (spec.hidden_size,)}
    if layer.qk_norm:
        shapes |= {"q_norm": (spec.head_dim,), "k_norm": (spec.head_dim,)}
    return shapes


def check_inventory(
    where: str, found: Mapping[str, Shape], expected: Mapping[str, Shape], ignored: Collection[str]
) -> None:
    """Compare the published tensors `found` with those `expected`, both by their published names.

    A tensor that is not expected is refused: to leave it out would make the model answer wrongly.
    Raises ModelFileError, or UnsupportedModelError for tensors too many.
    """
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected and name not in ignored]
    foreign = _foreign(unexpected)
    if foreign is not None:
        raise UnsupportedModelError(f"{where} holds {foreign[0]}.", hint=foreign[1])
    if missing:
        raise ModelFileError(f"{where} lacks {_listed(missing)}.", hint=_missing_hint(missing))
    for name, shape in expected.items():
        if found[name] != shape:
            raise ModelFileError(
                f"{where}: tensor {name} has shape {found[name]}, its model needs {shape}.",
                hint="Its settings and its weights do not belong together: take both from one place.",
            )
    if unexpected:
        raise UnsupportedModelError(
            f"{where} has {_listed(unexpected)}, which tpid does not know how to use.",
            hint="It is a variant of a family that tpid runs: choose the plain model that it was made from.",
        )


def _foreign(unexpected: Collection[str]) -> tuple[str, str] | None:
    """What tensors of these names belong to, and what to do; None where that cannot be told."""
    for endings, what, hint in _FOREIGN:
        for name in unexpected:
            if name.endswith(endings):
                return f"{what}: tensor {name}", hint
    return None


def _missing_hint(missing: Collection[str]) -> str:
    if list(missing) == ["lm_head.weight"]:
        return 'If it is the embedding, as in many small models, set "tie_word_embeddings": true in config.json.'
    return "Not all of the model is there: compare its files with those where it was published."


def _listed(names: list[str]) -> str:
    noun = "tensor" if len(names) == 1 else f"{len(names)} tensors:"
    more = ", …" if len(names) > _NAMED_AT_MOST else ""
    return f"{noun} {', '.join(names[:_NAMED_AT_MOST])}{more}"

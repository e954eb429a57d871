"""model.json: what a pack is, and the digest of every unit in it."""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final, Literal, NewType

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, ValidationError

from tpid.errors import ModelError, PackError
from tpid.model.jsonfile import parse_json_object
from tpid.model.limits import (
    MAX_CONTEXT_TOKENS,
    MAX_FFN,
    MAX_HEAD_DIM,
    MAX_HEADS,
    MAX_HIDDEN,
    MAX_LAYERS,
    MAX_NORM_EPS,
    MAX_ROPE_THETA,
    MAX_SCALE,
    MAX_VOCAB,
    MIN_NORM_EPS,
    MIN_ROPE_THETA,
    MIN_SCALE,
    check_spec,
)
from tpid.model.spec import LayerSpec, ModelSpec, Rope
from tpid.model.weightfile import WeightFile
from tpid.model.weights import Format
from tpid.pack.geometry import (
    ATTN_MATRICES,
    FFN_MATRICES,
    TILE_COLUMNS,
    Block,
    Half,
    UnitGeometry,
    block_geometry,
    vocab_geometry,
)

PackId = NewType("PackId", str)  # SHA-256 of model.json: the same weights, formats and tokenizer give the same id

PACK_VERSION: Final = 1
MANIFEST_NAME = "model.json"
TOKENIZER_NAME = "tokenizer.json"
TEMPLATE_NAME = "chat_template.jinja"
SAMPLING_NAME = "sampling.json"  # what the publisher says of it; no part of the pack's id
EMBED_NAME = "embed.safetensors"
HEAD_NAME = "head.safetensors"
MAX_MANIFEST_BYTES = 16 << 20  # a 70B model needs about 1 MB
MAX_VALUES = 1 << 18  # as many as there are digests in so many bytes
MAX_KEPT = 4  # manifests, whose files may be opened again
MAX_KEYS = 64  # of one object; pydantic takes 1 kB to report each that it does not know
MAX_UNITS = MAX_FFN // TILE_COLUMNS  # of a block, an embedding or a head

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Digests = Annotated[list[Digest], Field(max_length=MAX_UNITS), FailFast()]

_HINT = "Import the model again."

# The same bounds that a published model is held to.
_SPEC_BOUNDS: Mapping[str, tuple[float, float]] = {
    "hidden_size": (1, MAX_HIDDEN),
    "n_layers": (1, MAX_LAYERS),
    "n_heads": (1, MAX_HEADS),
    "n_kv_heads": (1, MAX_HEADS),
    "head_dim": (1, MAX_HEAD_DIM),
    "ffn_size": (1, MAX_FFN),
    "vocab_size": (1, MAX_VOCAB),
    "context_tokens": (1, MAX_CONTEXT_TOKENS),
    "norm_eps": (MIN_NORM_EPS, MAX_NORM_EPS),
    "embedding_scale": (MIN_SCALE, MAX_SCALE),
    "logit_scale": (MIN_SCALE, MAX_SCALE),
    "logit_softcap": (MIN_SCALE, MAX_SCALE),
}
_LAYER_BOUNDS: Mapping[str, tuple[float, float]] = {
    "window_tokens": (1, MAX_CONTEXT_TOKENS),
    "attention_scale": (MIN_SCALE, MAX_SCALE),
    "attention_softcap": (MIN_SCALE, MAX_SCALE),
    "residual_scale": (MIN_SCALE, MAX_SCALE),
}
_ROPE_BOUNDS: Mapping[str, tuple[float, float]] = {
    "theta": (MIN_ROPE_THETA, MAX_ROPE_THETA),
    "rotary_dims": (1, MAX_HEAD_DIM),
    "magnitude": (MIN_SCALE, MAX_SCALE),
    "original_tokens": (1, MAX_CONTEXT_TOKENS),
}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BlockEntry(_Part):
    formats: dict[str, Format]
    digests: Digests  # SHA-256 of each unit, padding included


class LayerEntry(_Part):
    attn: BlockEntry
    ffn: BlockEntry
    vectors: Digest  # of norms and biases, in the order of their names


class VocabEntry(_Part):
    format: Format
    digests: Digests


class TokenEntry(_Part):
    bos_token: str | None
    eos_token: str | None
    eos_ids: Annotated[list[int], FailFast()]
    other_tokens: dict[str, str] = {}  # by the names that the chat template knows


_OLD_LAYER_SWITCHES = ("qkv_bias", "o_bias", "ffn_bias", "qk_norm")


def _few_and_new(spec: object) -> object:
    """The spec as it is written today; packs of before one description a layer said switches of the whole model.

    Raises ValueError for more layers or RoPE factors than any model has: pydantic takes 1 kB to report each that is
    wrong.
    """
    if isinstance(spec, dict) and "rope" in spec and "pattern" not in spec:
        spec = _with_pattern(spec)
    pattern = spec.get("pattern") if isinstance(spec, dict) else None
    layers = pattern if isinstance(pattern, list) else []
    if len(layers) > MAX_LAYERS:
        raise ValueError(f"{len(layers)} kinds of layers are more than {MAX_LAYERS}")
    for layer in layers:
        rope = layer.get("rope") if isinstance(layer, dict) else None
        for key in ("factors", "long_factors"):
            factors = rope.get(key) if isinstance(rope, dict) else None
            if isinstance(factors, list) and len(factors) > MAX_HEAD_DIM // 2:
                raise ValueError(f"{len(factors)} RoPE factors are more than {MAX_HEAD_DIM // 2}")
    return spec


def _with_pattern(old: dict[str, object]) -> dict[str, object]:
    """Raises ValueError for numbers of layers that no model has."""
    layer = {"rope": old["rope"], **{key: old[key] for key in _OLD_LAYER_SWITCHES if key in old}}
    window, first, n_layers = (old.get(key) for key in ("sliding_window_tokens", "first_sliding_layer", "n_layers"))
    sliding = layer | {"window_tokens": window}
    pattern = [sliding]
    if window is not None and first:
        if not isinstance(first, int) or not isinstance(n_layers, int) or not 0 <= first <= n_layers <= MAX_LAYERS:
            raise ValueError(f"its windows begin at layer {str(first)[:40]} of {str(n_layers)[:40]}")
        pattern = [layer] * first + [sliding] * (n_layers - first)
    gone = {"rope", "sliding_window_tokens", "first_sliding_layer", *_OLD_LAYER_SWITCHES}
    return {key: value for key, value in old.items() if key not in gone} | {"pattern": pattern}


class Manifest(_Part):
    pack_version: Literal[1]
    spec: Annotated[ModelSpec, BeforeValidator(_few_and_new)]
    layers: Annotated[list[LayerEntry], Field(max_length=MAX_LAYERS), FailFast()]
    embed: VocabEntry
    head: VocabEntry | None  # None: tied, the head is the embedding
    final_norm: Digest
    tokens: TokenEntry
    tokenizer: Digest
    chat_template: Digest | None

    def entry(self, block: Block) -> BlockEntry:
        layer = self.layers[block.layer]
        return layer.attn if block.half is Half.ATTN else layer.ffn

    def geometry(self, block: Block) -> UnitGeometry:
        return block_geometry(self.spec, block.half, self.entry(block).formats)

    @property
    def embed_geometry(self) -> UnitGeometry:
        return vocab_geometry(self.spec, self.embed.format)

    @property
    def head_geometry(self) -> UnitGeometry:
        return vocab_geometry(self.spec, (self.head or self.embed).format)

    def blocks(self) -> list[Block]:
        """Every block of a pass, in order."""
        return [Block(layer, half) for layer in range(self.spec.n_layers) for half in (Half.ATTN, Half.FFN)]


def layer_path(layer: int) -> str:
    return f"layers/{layer:03d}.safetensors"


def dump_manifest(manifest: Manifest) -> bytes:
    return manifest.model_dump_json(indent=1).encode()


def read_manifest(directory: Path) -> bytes:
    """model.json, whose SHA-256 is the pack's id. Raises ModelFileError."""
    with WeightFile(directory / MANIFEST_NAME) as file:
        return file.read_all(MAX_MANIFEST_BYTES)


def load_manifest(directory: Path) -> tuple[Manifest, PackId]:
    """Raises PackError where model.json is missing, damaged, inconsistent or of another version."""
    path = directory / MANIFEST_NAME
    try:
        data = read_manifest(directory)
    except ModelError as error:
        raise PackError(error.message, hint=_HINT) from error
    return _sound_manifest(data, path), PackId(hashlib.sha256(data).hexdigest())


@lru_cache(maxsize=MAX_KEPT)
def _sound_manifest(data: bytes, path: Path) -> Manifest:
    """Requests that wait share one: what is made of a large model's manifest takes megabytes. Raises PackError."""
    try:
        manifest = Manifest.model_validate(parse_json_object(data, str(path), MAX_VALUES, MAX_KEYS))
    except ModelError as error:
        raise PackError(error.message, hint=_HINT) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PackError(f"{path} is not sound: {where}: {first['msg']}.", hint=_HINT) from error
    _check_spec(manifest.spec, path)
    _check_counts(manifest, path)
    return manifest


def _check_spec(spec: ModelSpec, path: Path) -> None:
    _check_bounds("spec", spec, _SPEC_BOUNDS, path)
    for i, layer in enumerate(spec.pattern):
        _check_bounds(f"spec.pattern.{i}", layer, _LAYER_BOUNDS, path)
        if layer.rope is not None:
            _check_bounds(f"spec.pattern.{i}.rope", layer.rope, _ROPE_BOUNDS, path)
    try:
        check_spec(spec, str(path))
    except ModelError as error:
        raise PackError(error.message, hint=_HINT) from error


def _check_bounds(
    name: str, values: ModelSpec | LayerSpec | Rope, bounds: Mapping[str, tuple[float, float]], path: Path
) -> None:
    """None is within all bounds where the type allows it."""
    for field, (least, most) in bounds.items():
        value = getattr(values, field)
        if value is not None and not least <= value <= most:
            shown = str(value)[:40]
            raise PackError(f"{path} is not sound: {name}.{field} is {shown}, not {least:g} to {most:g}.", hint=_HINT)


def _check_counts(manifest: Manifest, path: Path) -> None:
    if len(manifest.layers) != manifest.spec.n_layers:
        raise PackError(
            f"{path} lists {len(manifest.layers)} layers, its spec says {manifest.spec.n_layers}.", hint=_HINT
        )
    for block in manifest.blocks():
        names = ATTN_MATRICES if block.half is Half.ATTN else FFN_MATRICES
        if manifest.entry(block).formats.keys() != set(names):
            raise PackError(f"{path} does not give {block} a format for each of {', '.join(names)}.", hint=_HINT)
    units = [(str(block), manifest.entry(block).digests, manifest.geometry(block)) for block in manifest.blocks()]
    units.append(("embed", manifest.embed.digests, manifest.embed_geometry))
    if manifest.head is not None:
        units.append(("head", manifest.head.digests, manifest.head_geometry))
    for name, digests, geometry in units:
        if len(digests) != geometry.n_units:
            raise PackError(
                f"{path} has {len(digests)} digests for the {geometry.n_units} units of {name}: it is damaged, or "
                "of a version that cut units otherwise.",
                hint=_HINT,
            )

"""model.json: what a pack is, and the digest of every unit in it."""

import hashlib
from collections.abc import Mapping
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
    MAX_VOCAB,
    MIN_NORM_EPS,
    MIN_ROPE_THETA,
    check_spec,
)
from tpid.model.spec import ModelSpec
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
    "first_sliding_layer": (0, MAX_LAYERS),
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


def _few_factors(spec: object) -> object:
    """Raises ValueError for more RoPE factors than any head has: pydantic takes 1 kB to report each that is wrong."""
    rope = spec.get("rope") if isinstance(spec, dict) else None
    factors = rope.get("factors") if isinstance(rope, dict) else None
    if isinstance(factors, list) and len(factors) > MAX_HEAD_DIM // 2:
        raise ValueError(f"{len(factors)} RoPE factors are more than {MAX_HEAD_DIM // 2}")
    return spec


class Manifest(_Part):
    pack_version: Literal[1]
    spec: Annotated[ModelSpec, BeforeValidator(_few_factors)]
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


def load_manifest(directory: Path) -> tuple[Manifest, PackId]:
    """Raises PackError where model.json is missing, damaged, inconsistent or of another version."""
    path = directory / MANIFEST_NAME
    try:
        with WeightFile(path) as file:
            data = file.read_all(MAX_MANIFEST_BYTES)
        manifest = Manifest.model_validate(parse_json_object(data, str(path), MAX_VALUES, MAX_KEYS))
    except ModelError as error:
        raise PackError(error.message, hint=_HINT) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PackError(f"{path} is not sound: {where}: {first['msg']}.", hint=_HINT) from error
    _check_spec(manifest.spec, path)
    _check_counts(manifest, path)
    return manifest, PackId(hashlib.sha256(data).hexdigest())


def _check_spec(spec: ModelSpec, path: Path) -> None:
    bounded = {name: (getattr(spec, name), bounds) for name, bounds in _SPEC_BOUNDS.items()}
    bounded["rope.theta"] = (spec.rope.theta, (MIN_ROPE_THETA, MAX_ROPE_THETA))
    if spec.sliding_window_tokens is not None:
        bounded["sliding_window_tokens"] = (spec.sliding_window_tokens, (1, MAX_CONTEXT_TOKENS))
    for name, (value, (least, most)) in bounded.items():
        if not least <= value <= most:
            shown = str(value)[:40]
            raise PackError(f"{path} is not sound: spec.{name} is {shown}, not {least:g} to {most:g}.", hint=_HINT)
    try:
        check_spec(spec, str(path))
    except ModelError as error:
        raise PackError(error.message, hint=_HINT) from error


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
                f"{path} has {len(digests)} digests for the {geometry.n_units} units of {name}.", hint=_HINT
            )

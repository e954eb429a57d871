"""model.json: what a pack is, and the digest of every unit in it."""

import hashlib
from pathlib import Path
from typing import Annotated, Final, Literal, NewType

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tpid.errors import PackError
from tpid.model.spec import ModelSpec
from tpid.model.weights import Format
from tpid.pack.geometry import Block, Half, UnitGeometry, block_geometry, vocab_geometry

PackId = NewType("PackId", str)  # SHA-256 of model.json: the same weights, formats and tokenizer give the same id

PACK_VERSION: Final = 1
MANIFEST_NAME = "model.json"
TOKENIZER_NAME = "tokenizer.json"
TEMPLATE_NAME = "chat_template.jinja"
EMBED_NAME = "embed.safetensors"
HEAD_NAME = "head.safetensors"
MAX_MANIFEST_BYTES = 64 << 20  # a 70B model needs about 1 MB

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BlockEntry(_Part):
    formats: dict[str, Format]
    digests: list[Digest]  # SHA-256 of each unit, padding included


class LayerEntry(_Part):
    attn: BlockEntry
    ffn: BlockEntry
    vectors: Digest  # of norms and biases, in the order of their names


class VocabEntry(_Part):
    format: Format
    digests: list[Digest]


class TokenEntry(_Part):
    bos_token: str | None
    eos_token: str | None
    eos_ids: list[int]


class Manifest(_Part):
    pack_version: Literal[1]
    spec: ModelSpec
    layers: list[LayerEntry]
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
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise PackError(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) > MAX_MANIFEST_BYTES:
        raise PackError(f"{path} is larger than {MAX_MANIFEST_BYTES >> 20} MiB: not a pack's model.json.")
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PackError(f"{path} is not sound: {where}: {first['msg']}.", hint="Import the model again.") from error
    _check_counts(manifest, path)
    return manifest, PackId(hashlib.sha256(data).hexdigest())


def _check_counts(manifest: Manifest, path: Path) -> None:
    if len(manifest.layers) != manifest.spec.n_layers:
        raise PackError(f"{path} lists {len(manifest.layers)} layers, its spec says {manifest.spec.n_layers}.")
    try:
        units = [(str(block), manifest.entry(block).digests, manifest.geometry(block)) for block in manifest.blocks()]
    except KeyError as error:
        raise PackError(f"{path} gives no format for matrix {error}.", hint="Import the model again.") from error
    units.append(("embed", manifest.embed.digests, manifest.embed_geometry))
    if manifest.head is not None:
        units.append(("head", manifest.head.digests, manifest.head_geometry))
    for name, digests, geometry in units:
        if len(digests) != geometry.n_units:
            raise PackError(f"{path} has {len(digests)} digests for the {geometry.n_units} units of {name}.")

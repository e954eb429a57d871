"""Import: from a published model to a pack, in memory below one layer, atomically, and so that it can go on.

Everything is written into a staging directory beside the pack. A journal there lists the files that
are whole, so that an import that was interrupted goes on where it stopped. When all files are there,
model.json is written, every byte is read back and checked, and one rename makes the pack visible.
"""

import contextlib
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from tpid.errors import DiskFullError, UnsupportedModelError
from tpid.model.inventory import matrix_shapes
from tpid.model.sampling_defaults import dump
from tpid.model.source import TokenizerFiles, WeightSource
from tpid.model.spec import ModelSpec
from tpid.model.tensorfile import build_header
from tpid.model.weights import Format
from tpid.pack.encode import UnitEncoder, block_formats, encode_block, vocab_format
from tpid.pack.geometry import Half, block_geometry, vocab_geometry
from tpid.pack.layout import FileLayout, embed_layout, head_layout, layer_layout
from tpid.pack.manifest import (
    EMBED_NAME,
    HEAD_NAME,
    MANIFEST_NAME,
    PACK_VERSION,
    SAMPLING_NAME,
    TEMPLATE_NAME,
    TOKENIZER_NAME,
    BlockEntry,
    Digest,
    LayerEntry,
    Manifest,
    TokenEntry,
    VocabEntry,
    dump_manifest,
    layer_path,
)
from tpid.pack.reader import Pack
from tpid.pack.staging import FREE_SPACE_HINT, publish, staging_for, write_whole
from tpid.pack.verify import Progress, ProgressCallback, digest, vectors_digest, verify_pack
from tpid.size import shown_size

JOURNAL_NAME = "import.json"
FREE_MARGIN_BYTES = 64 << 20  # what an import leaves free
# Units are padded to 4096 bytes and tiles to 8 rows of 32. That is little of any real model, but nearly all of a
# made-up one with thousands of heads of two weights. A pack larger than both of these together is refused.
MAX_BYTES_A_WEIGHT = 8
MAX_PADDING_BYTES = 256 << 20


def import_pack(
    source: WeightSource,
    target: Path,
    *,
    requested: Format | None = None,
    replace: bool = False,
    verify: bool = True,
    encode: UnitEncoder = encode_block,
    progress: ProgressCallback = lambda _: None,
    tell: Callable[[str], None] = lambda _: None,
) -> Pack:
    """Write `source` as the pack `target` and give it back, verified if asked for; `tell` what had to be guessed.

    Raises ModelError for the source's faults, DiskFullError, and PackError where `target` exists already or
    is being written by another import. After an error nothing is left; after an interruption the staging
    directory is, and the same call goes on from there.
    """
    with staging_for(target, replace=replace) as staging:
        tokenizer = source.tokenizer()  # a cheap reason to refuse comes first
        for note in tokenizer.notes:
            tell(note)
        writer = _Writer(source, staging, requested, encode, progress)
        manifest = writer.write_all(tokenizer)
        write_whole(staging / MANIFEST_NAME, dump_manifest(manifest))
        if verify:
            verify_pack(Pack(staging), progress)
        (staging / JOURNAL_NAME).unlink()
        publish(staging, target)
    return Pack(target)


class _Journal(BaseModel):
    """Which files are whole, and what is in them."""

    identity: dict[str, str | int | None]  # of the import
    files: dict[str, dict[str, list[Digest]]] = {}  # path -> tensor -> digests of its units; one of all vectors


@dataclass(frozen=True, slots=True)
class _FilePlan:
    path: str
    layout: FileLayout
    tensors: Mapping[str, Mapping[str, str]]  # units tensor -> matrix -> name in the source
    vector_prefix: str = ""


class _Writer:
    def __init__(
        self,
        source: WeightSource,
        staging: Path,
        requested: Format | None,
        encode: UnitEncoder,
        progress: ProgressCallback,
    ) -> None:
        self._source = source
        self._staging = staging
        self._requested = requested
        self._encode = encode
        self._progress = progress
        self._done_bytes = 0
        self._total_bytes = 0
        self._journal = self._open_journal()

    def write_all(self, tokenizer: TokenizerFiles) -> Manifest:
        spec = self._source.spec
        formats = [
            {half: block_formats(self._source, layer, half, self._requested) for half in Half}
            for layer in range(spec.n_layers)
        ]
        vocab = {"embed": vocab_format(self._source, "embed", self._requested)}
        if not spec.tied_head:
            vocab["head"] = vocab_format(self._source, "head", self._requested)
        plans = [self._layer_plan(layer, by_half) for layer, by_half in enumerate(formats)]
        plans += [self._vocab_plan(name, format) for name, format in vocab.items()]
        self._total_bytes = sum(plan.layout.size_bytes for plan in plans)
        _check_padding(spec, self._total_bytes)
        self._check_space(plans)
        digests = {plan.path: self._write_file(plan) for plan in plans}

        template = tokenizer.chat_template.encode() if tokenizer.chat_template is not None else None
        write_whole(self._staging / TOKENIZER_NAME, tokenizer.tokenizer_json)
        if template is not None:
            write_whole(self._staging / TEMPLATE_NAME, template)
        sampling = self._source.sampling_defaults()
        if sampling.as_json():
            write_whole(self._staging / SAMPLING_NAME, dump(sampling))
        return Manifest(
            pack_version=PACK_VERSION,
            spec=spec,
            layers=[
                LayerEntry(
                    attn=BlockEntry(formats=by_half[Half.ATTN], digests=digests[layer_path(layer)]["attn.units"]),
                    ffn=BlockEntry(formats=by_half[Half.FFN], digests=digests[layer_path(layer)]["ffn.units"]),
                    vectors=digests[layer_path(layer)]["vectors"][0],
                )
                for layer, by_half in enumerate(formats)
            ],
            embed=VocabEntry(format=vocab["embed"], digests=digests[EMBED_NAME]["embed.units"]),
            head=None if spec.tied_head else VocabEntry(format=vocab["head"], digests=digests[HEAD_NAME]["head.units"]),
            final_norm=digests[EMBED_NAME]["vectors"][0],
            tokens=TokenEntry(
                bos_token=tokenizer.bos_token,
                eos_token=tokenizer.eos_token,
                eos_ids=list(tokenizer.eos_ids),
                other_tokens=dict(tokenizer.other_tokens),
            ),
            tokenizer=digest(tokenizer.tokenizer_json),
            chat_template=digest(template) if template is not None else None,
        )

    def _layer_plan(self, layer: int, formats: Mapping[Half, Mapping[str, Format]]) -> _FilePlan:
        spec = self._source.spec
        geometry = {half: block_geometry(spec, half, formats[half]) for half in Half}
        return _FilePlan(
            layer_path(layer),
            layer_layout(spec, layer, geometry[Half.ATTN], geometry[Half.FFN]),
            {f"{half}.units": {name: f"layers.{layer}.{name}" for name in formats[half]} for half in Half},
            vector_prefix=f"layers.{layer}.",
        )

    def _vocab_plan(self, name: str, format: Format) -> _FilePlan:
        geometry = vocab_geometry(self._source.spec, format)
        layout = embed_layout(self._source.spec, geometry) if name == "embed" else head_layout(geometry)
        return _FilePlan(f"{name}.safetensors", layout, {f"{name}.units": {"rows": name}})

    def _write_file(self, plan: _FilePlan) -> dict[str, list[str]]:
        """Writes one file and notes it in the journal; gives the digests of its units and of its vectors."""
        if self._is_whole(plan):
            self._advance(plan.layout.size_bytes)
            return self._journal.files[plan.path]
        path = self._staging / plan.path
        path.parent.mkdir(exist_ok=True)
        digests: dict[str, list[str]] = {}
        with path.open("wb") as file:
            file.write(build_header(plan.layout.tensors()))
            for name, geometry in plan.layout.units.items():
                digests[name] = []
                for units in self._encode(self._source, geometry, plan.tensors[name]):
                    digests[name] += [digest(unit) for unit in units]
                    file.write(units.data)
                    self._advance(units.nbytes)
            vectors = {name: self._source.vector(plan.vector_prefix + name) for name in plan.layout.vectors}
            for vector in vectors.values():
                file.write(vector.data)
                self._advance(vector.nbytes)
            digests["vectors"] = [vectors_digest({name: vector.view("u1") for name, vector in vectors.items()})]
            file.flush()
            os.fsync(file.fileno())
        self._journal.files[plan.path] = digests
        write_whole(self._staging / JOURNAL_NAME, self._journal.model_dump_json().encode())
        return digests

    def _open_journal(self) -> _Journal:
        """The journal of an import of the very same thing, else a new one in an empty directory."""
        identity: dict[str, str | int | None] = {
            "pack_version": PACK_VERSION,
            "source": self._source.fingerprint,
            "format": self._requested,
        }
        with contextlib.suppress(OSError, ValidationError):
            journal = _Journal.model_validate_json((self._staging / JOURNAL_NAME).read_bytes())
            if journal.identity == identity:
                return journal
        for child in self._staging.iterdir():
            shutil.rmtree(child) if child.is_dir() else child.unlink()
        return _Journal(identity=identity)

    def _is_whole(self, plan: _FilePlan) -> bool:
        """Is it in the journal and of the right size? Whether every byte is right, the verification finds."""
        path = self._staging / plan.path
        size_bytes = len(build_header(plan.layout.tensors())) + plan.layout.size_bytes
        counts = {name: geometry.n_units for name, geometry in plan.layout.units.items()} | {"vectors": 1}
        noted = {name: len(digests) for name, digests in self._journal.files.get(plan.path, {}).items()}
        return noted == counts and path.exists() and path.stat().st_size == size_bytes

    def _check_space(self, plans: list[_FilePlan]) -> None:
        needed = sum(plan.layout.size_bytes for plan in plans if not self._is_whole(plan)) + FREE_MARGIN_BYTES
        free = shutil.disk_usage(self._staging).free
        if free < needed:
            raise DiskFullError(
                f"The import needs {shown_size(needed)} on the disk of {self._staging.parent}, "
                f"where {shown_size(free)} are free.",
                hint=FREE_SPACE_HINT,
            )

    def _advance(self, n_bytes: int) -> None:
        self._done_bytes += n_bytes
        self._progress(Progress("convert", self._done_bytes, self._total_bytes))


def _check_padding(spec: ModelSpec, pack_bytes: int) -> None:
    n_weights = sum(math.prod(shape) for shape in matrix_shapes(spec).values())
    if pack_bytes > MAX_BYTES_A_WEIGHT * n_weights + MAX_PADDING_BYTES:
        size = shown_size(pack_bytes)
        raise UnsupportedModelError(
            f"The model has {n_weights} weights, but in pieces so small that its pack would take {size}."
        )

"""Reading a pack: where each byte lies, and the small things that every rank holds."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from tpid.errors import ModelFileError, PackError, TpidError
from tpid.model.sampling_defaults import MAX_BYTES, SamplingDefaults, load
from tpid.model.tensorfile import TensorEntry, read_header
from tpid.model.weightfile import WeightFile
from tpid.model.weights import F32
from tpid.pack.direct import READ_HINT
from tpid.pack.geometry import ALIGN_BYTES, Block, Half, UnitGeometry, UnitRange
from tpid.pack.layout import FileLayout, embed_layout, head_layout, layer_layout
from tpid.pack.manifest import (
    EMBED_NAME,
    HEAD_NAME,
    SAMPLING_NAME,
    TEMPLATE_NAME,
    TOKENIZER_NAME,
    layer_path,
    load_manifest,
)
from tpid.pack.tiles import U8
from tpid.size import shown_size

MAX_TEXT_BYTES = 128 << 20  # as large as a published tokenizer.json may be


@dataclass(frozen=True, slots=True)
class ByteRange:
    path: Path
    offset: int
    size_bytes: int


class Pack:
    """An imported model. Opening reads model.json; files are looked at when they are first needed."""

    def __init__(self, directory: Path) -> None:
        """Raises PackError."""
        self.directory = directory
        self.name = directory.name
        self.manifest, self.id = load_manifest(directory)
        self.spec = self.manifest.spec
        self._headers: dict[str, dict[str, TensorEntry]] = {}

    @cached_property
    def size_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.directory.rglob("*") if path.is_file())

    @cached_property
    def tokenizer_size_bytes(self) -> int:
        """Of tokenizer.json; 0 where it is not there, which a device that only helps may do without."""
        path = self.directory / TOKENIZER_NAME
        return path.stat().st_size if path.is_file() else 0

    @cached_property
    def sampling_defaults(self) -> SamplingDefaults:
        """None are there in packs of earlier versions."""
        try:
            with (self.directory / SAMPLING_NAME).open("rb") as file:
                return load(file.read(MAX_BYTES))
        except OSError:
            return SamplingDefaults()

    def geometry(self, block: Block) -> UnitGeometry:
        return self.manifest.geometry(block)

    def block_range(self, block: Block, units: UnitRange) -> ByteRange:
        """Where the bytes of `units` lie; offset and size are multiples of 4096."""
        entry = self._entry(layer_path(block.layer), self.layer_layout(block.layer), f"{block.half}.units")
        stride = self.geometry(block).stride_bytes
        path = self.directory / layer_path(block.layer)
        return ByteRange(path, entry.start + units.start * stride, len(units) * stride)

    def vectors(self, layer: int) -> dict[str, F32]:
        """Norms and biases of a layer, fp32."""
        layout = self.layer_layout(layer)
        return {name: self._vector(layer_path(layer), layout, name) for name in layout.vectors}

    def vector_offset(self, layer: int, name: str) -> int:
        """Where one of them begins in the layer's file."""
        return self._entry(layer_path(layer), self.layer_layout(layer), name).start

    def final_norm(self) -> F32:
        return self._vector(EMBED_NAME, self.embed_layout(), "final_norm")

    def embed_range(self) -> ByteRange:
        entry = self._entry(EMBED_NAME, self.embed_layout(), "embed.units")
        return ByteRange(self.directory / EMBED_NAME, entry.start, self.manifest.embed_geometry.size_bytes)

    def head_range(self) -> ByteRange:
        """The embedding's own range where the head is tied."""
        if self.manifest.head is None:
            return self.embed_range()
        entry = self._entry(HEAD_NAME, head_layout(self.manifest.head_geometry), "head.units")
        return ByteRange(self.directory / HEAD_NAME, entry.start, self.manifest.head_geometry.size_bytes)

    def tokenizer_json(self) -> bytes:
        return read_file(self.directory / TOKENIZER_NAME)

    def chat_template(self) -> str | None:
        if self.manifest.chat_template is None:
            return None
        path = self.directory / TEMPLATE_NAME
        try:
            return read_file(path).decode()
        except UnicodeDecodeError as error:
            raise PackError(f"{path} is not UTF-8.", hint="Import the model again.") from error

    def layer_layout(self, layer: int) -> FileLayout:
        attn, ffn = (self.geometry(Block(layer, half)) for half in (Half.ATTN, Half.FFN))
        return layer_layout(self.spec, layer, attn, ffn)

    def embed_layout(self) -> FileLayout:
        return embed_layout(self.spec, self.manifest.embed_geometry)

    def _vector(self, relative: str, layout: FileLayout, name: str) -> F32:
        entry = self._entry(relative, layout, name)
        data = read_range(ByteRange(self.directory / relative, entry.start, entry.stop - entry.start))
        return data.view(np.float32)

    def _entry(self, relative: str, layout: FileLayout, name: str) -> TensorEntry:
        if relative not in self._headers:
            self._headers[relative] = open_layout(self.directory / relative, layout)
        return self._headers[relative][name]


def open_layout(path: Path, layout: FileLayout) -> dict[str, TensorEntry]:
    """The tensors of one file of a pack. Raises PackError where they are not those of `layout`."""
    try:
        with WeightFile(path) as file, file.stream() as stream:
            entries = read_header(stream, str(path))
    except TpidError as error:
        raise PackError(error.message, hint="Import the model again.") from error
    for name, dtype, shape in layout.tensors():
        entry = entries.get(name)
        if entry is None or (entry.dtype, entry.shape) != (dtype, shape):
            raise PackError(f"{path} holds no {dtype} tensor {name} of shape {shape}.", hint="Import it again.")
        if dtype == "U8" and entry.start % ALIGN_BYTES:
            raise PackError(f"{path}: {name} does not start at a multiple of {ALIGN_BYTES}.", hint="Import it again.")
    return entries


def read_file(path: Path) -> bytes:
    """Tokenizer or template. Raises PackError."""
    try:
        with WeightFile(path) as file:
            return file.read_all(MAX_TEXT_BYTES)
    except ModelFileError as error:
        raise PackError(error.message, hint="Import the model again.") from error


def read_range(source: ByteRange) -> U8:
    """All bytes of the range, [size] uint8. Raises PackError where the file ends before it."""
    out = np.empty(source.size_bytes, np.uint8)
    view, done = memoryview(out), 0
    try:
        with source.path.open("rb", buffering=0) as file:
            while done < source.size_bytes:
                n = os.preadv(file.fileno(), [view[done:]], source.offset + done)
                if n == 0:
                    break
                done += n
    except OSError as error:
        reason = f"{source.path} cannot be read at byte {source.offset + done}: {error.strerror}."
        raise PackError(reason, hint=READ_HINT) from error
    if done < source.size_bytes:
        missing = source.size_bytes - done
        raise PackError(f"{source.path} ends {shown_size(missing)} too early.", hint="Import the model again.")
    return out

"""Does a pack hold the bytes that its digests say?"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from tpid.errors import PackError
from tpid.model.tensorfile import build_header
from tpid.pack.geometry import UnitGeometry, UnitRange
from tpid.pack.layout import FileLayout, head_layout
from tpid.pack.manifest import EMBED_NAME, HEAD_NAME, TEMPLATE_NAME, TOKENIZER_NAME, layer_path
from tpid.pack.reader import ByteRange, Pack, read_file, read_range
from tpid.pack.tiles import U8


@dataclass(frozen=True, slots=True)
class Progress:
    stage: str  # "convert" or "verify"
    done_bytes: int
    total_bytes: int


ProgressCallback = Callable[[Progress], None]


def digest(data: bytes | U8) -> str:
    return hashlib.sha256(data).hexdigest()


def vectors_digest(vectors: dict[str, U8]) -> str:
    return digest(b"".join(vectors[name].tobytes() for name in sorted(vectors)))


def verify_pack(pack: Pack, progress: ProgressCallback = lambda _: None) -> None:
    """Read every byte of the pack. Raises PackError at the first that is not as it was written.

    Each tensor file must also open with the plain safetensors library, as the format promises.
    """
    for path in sorted(pack.directory.rglob("*.safetensors")):
        _open_plainly(path)
    for name, expected in ((TOKENIZER_NAME, pack.manifest.tokenizer), (TEMPLATE_NAME, pack.manifest.chat_template)):
        if expected is not None and digest(read_file(pack.directory / name)) != expected:
            raise _damaged(pack.directory / name, "its content")
    checks = list(_unit_checks(pack))
    _verify_headers(pack)
    total = sum(check.geometry.size_bytes for check in checks)
    done = 0
    for check in checks:
        stride = check.geometry.stride_bytes
        for unit, expected in enumerate(check.digests):
            where = ByteRange(check.source.path, check.source.offset + unit * stride, stride)
            if digest(read_range(where)) != expected:
                raise _damaged(where.path, f"unit {unit} of {check.tensor} at byte {where.offset}")
            done += stride
            progress(Progress("verify", done, total))
    _verify_vectors(pack)


@dataclass(frozen=True, slots=True)
class _UnitCheck:
    source: ByteRange
    tensor: str
    geometry: UnitGeometry
    digests: list[str]


def _unit_checks(pack: Pack) -> Iterator[_UnitCheck]:
    manifest = pack.manifest
    for block in manifest.blocks():
        geometry = manifest.geometry(block)
        source = pack.block_range(block, UnitRange(0, geometry.n_units))
        yield _UnitCheck(source, f"{block.half}.units", geometry, manifest.entry(block).digests)
    yield _UnitCheck(pack.embed_range(), "embed.units", manifest.embed_geometry, manifest.embed.digests)
    if manifest.head is not None:
        yield _UnitCheck(pack.head_range(), "head.units", manifest.head_geometry, manifest.head.digests)


def _verify_headers(pack: Pack) -> None:
    """Opening a file has checked what its header says; this finds a change that says the same, as in its padding."""
    for name, layout in _layouts(pack):
        expected = build_header(layout.tensors())
        if read_range(ByteRange(pack.directory / name, 0, len(expected))).tobytes() != expected:
            raise _damaged(pack.directory / name, "its header")


def _layouts(pack: Pack) -> Iterator[tuple[str, FileLayout]]:
    for layer in range(pack.spec.n_layers):
        yield layer_path(layer), pack.layer_layout(layer)
    yield EMBED_NAME, pack.embed_layout()
    if pack.manifest.head is not None:
        yield HEAD_NAME, head_layout(pack.manifest.head_geometry)


def _verify_vectors(pack: Pack) -> None:
    for layer, entry in enumerate(pack.manifest.layers):
        vectors = {name: vector.view("u1") for name, vector in pack.vectors(layer).items()}
        if vectors_digest(vectors) != entry.vectors:
            raise _damaged(pack.directory / layer_path(layer), "a norm or bias")
    if digest(pack.final_norm().view("u1")) != pack.manifest.final_norm:
        raise _damaged(pack.embed_range().path, "the final norm")


def _open_plainly(path: Path) -> None:
    try:
        with safe_open(path, framework="numpy") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise PackError(f"{path} does not open as safetensors: {error}.", hint="Import the model again.") from error


def _damaged(path: Path, what: str) -> PackError:
    return PackError(f"{path}: {what} is not what was imported.", hint="Import the model again.")

"""Does a pack hold the bytes that its digests say?"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from tpid.errors import PackError
from tpid.pack.geometry import UnitGeometry, UnitRange
from tpid.pack.manifest import TEMPLATE_NAME, TOKENIZER_NAME, layer_path
from tpid.pack.reader import ByteRange, Pack, read_range
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
    total = sum(source.size_bytes for source, _, _ in checks)
    done = 0
    for source, geometry, digests in checks:
        for unit, expected in enumerate(digests):
            where = ByteRange(source.path, source.offset + unit * geometry.stride_bytes, geometry.stride_bytes)
            if digest(read_range(where)) != expected:
                raise _damaged(source.path, f"unit {unit} at byte {where.offset}")
            done += geometry.stride_bytes
            progress(Progress("verify", done, total))
    _verify_vectors(pack)


def _unit_checks(pack: Pack) -> Iterator[tuple[ByteRange, UnitGeometry, list[str]]]:
    manifest = pack.manifest
    for block in manifest.blocks():
        geometry = manifest.geometry(block)
        yield pack.block_range(block, UnitRange(0, geometry.n_units)), geometry, manifest.entry(block).digests
    yield pack.embed_range(), manifest.embed_geometry, manifest.embed.digests
    if manifest.head is not None:
        yield pack.head_range(), manifest.head_geometry, manifest.head.digests


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


def read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PackError(f"{path} cannot be read: {error.strerror}.", hint="Import the model again.") from error


def _damaged(path: Path, what: str) -> PackError:
    return PackError(f"{path}: {what} is not what was imported.", hint="Import the model again.")

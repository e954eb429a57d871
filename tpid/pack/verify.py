"""Does a pack hold the bytes that its digests say?"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from tpid.errors import PackError
from tpid.model.tensorfile import build_header
from tpid.pack.direct import read_pieces
from tpid.pack.geometry import UnitGeometry, UnitRange
from tpid.pack.layout import FileLayout, head_layout
from tpid.pack.manifest import EMBED_NAME, HEAD_NAME, TEMPLATE_NAME, TOKENIZER_NAME, layer_path
from tpid.pack.reader import ByteRange, Pack, open_layout, read_file, read_range
from tpid.pack.tiles import U8


@dataclass(frozen=True, slots=True)
class Progress:
    stage: str  # "convert" or "verify"
    done_bytes: int
    total_bytes: int


ProgressCallback = Callable[[Progress], None]

_HINT = "Import the model again."


def digest(data: bytes | U8) -> str:
    return hashlib.sha256(data).hexdigest()


def vectors_digest(vectors: dict[str, U8]) -> str:
    return digest(b"".join(vectors[name].tobytes() for name in sorted(vectors)))


def verify_pack(pack: Pack, progress: ProgressCallback = lambda _: None) -> None:
    """Read every byte of the pack, past the page cache. Raises PackError at the first that is not as it was written."""
    for fault in pack_faults(pack, progress):
        raise fault


def pack_faults(pack: Pack, progress: ProgressCallback = lambda _: None) -> Iterator[PackError]:
    """All that is not as it was written: file, place, and what to do.

    Each tensor file must also open with the plain safetensors library, as the format promises. What a file with a
    faulty header holds cannot be looked for; the rest of the pack is.
    """
    unreadable: set[Path] = set()
    for path in sorted(pack.directory.rglob("*.safetensors")):
        yield from _faults_of(lambda path=path: _open_plainly(path), path, unreadable)  # type: ignore[misc]
    for name, expected in ((TOKENIZER_NAME, pack.manifest.tokenizer), (TEMPLATE_NAME, pack.manifest.chat_template)):
        if expected is not None:
            yield from _text_faults(pack.directory / name, expected)
    for name, layout in _layouts(pack):
        yield from _faults_of(
            lambda name=name, layout=layout: _check_header(pack, name, layout),  # type: ignore[misc]
            pack.directory / name,
            unreadable,
        )
    yield from _all_unit_faults(pack, unreadable, progress)
    yield from _vector_faults(pack, unreadable)


def _faults_of(check: Callable[[], None], path: Path, unreadable: set[Path]) -> Iterator[PackError]:
    """What the check raises, once for each file."""
    if path in unreadable:
        return
    try:
        check()
    except PackError as error:
        unreadable.add(path)
        yield error


def _text_faults(path: Path, expected: str) -> Iterator[PackError]:
    try:
        if digest(read_file(path)) != expected:
            yield _damaged(path, "its content")
    except PackError as error:
        yield error


def _all_unit_faults(pack: Pack, unreadable: set[Path], progress: ProgressCallback) -> Iterator[PackError]:
    checks = list(_unit_checks(pack, unreadable))
    total = sum(check.geometry.size_bytes for check in checks)
    done = 0
    for check in checks:
        for fault in _unit_faults(check):
            if fault is not None:
                yield fault
            done += check.geometry.stride_bytes
            progress(Progress("verify", done, total))


def _unit_faults(check: "_UnitCheck") -> Iterator[PackError | None]:
    """For each unit its fault or None. A file that cannot be read on is given up."""
    path, stride = check.source.path, check.geometry.stride_bytes
    unit = 0
    try:
        for data in read_pieces(path, check.source.offset, stride, len(check.digests)):
            where = f"unit {unit} of {check.tensor} at byte {check.source.offset + unit * stride}"
            if len(data) < stride:
                yield PackError(f"{path} ends {stride - len(data)} bytes too early, in {where}.", hint=_HINT)
            else:
                yield None if digest(data) == check.digests[unit] else _damaged(path, where)
            unit += 1
    except OSError as error:
        yield PackError(
            f"{path} cannot be read in or behind unit {unit} of {check.tensor}: {error.strerror}.",
            hint="Check the disk, then import the model again.",
        )


@dataclass(frozen=True, slots=True)
class _UnitCheck:
    source: ByteRange
    tensor: str
    geometry: UnitGeometry
    digests: list[str]


def _unit_checks(pack: Pack, unreadable: set[Path]) -> Iterator[_UnitCheck]:
    manifest = pack.manifest
    for block in manifest.blocks():
        if pack.directory / layer_path(block.layer) in unreadable:
            continue
        geometry = manifest.geometry(block)
        source = pack.block_range(block, UnitRange(0, geometry.n_units))
        yield _UnitCheck(source, f"{block.half}.units", geometry, manifest.entry(block).digests)
    if pack.directory / EMBED_NAME not in unreadable:
        yield _UnitCheck(pack.embed_range(), "embed.units", manifest.embed_geometry, manifest.embed.digests)
    if manifest.head is not None and pack.directory / HEAD_NAME not in unreadable:
        yield _UnitCheck(pack.head_range(), "head.units", manifest.head_geometry, manifest.head.digests)


def _check_header(pack: Pack, name: str, layout: FileLayout) -> None:
    """The tensors are those of the layout, and the header is so to the byte, its padding included."""
    path = pack.directory / name
    open_layout(path, layout)
    expected = build_header(layout.tensors())
    if read_range(ByteRange(path, 0, len(expected))).tobytes() != expected:
        raise _damaged(path, "its header")


def _layouts(pack: Pack) -> Iterator[tuple[str, FileLayout]]:
    for layer in range(pack.spec.n_layers):
        yield layer_path(layer), pack.layer_layout(layer)
    yield EMBED_NAME, pack.embed_layout()
    if pack.manifest.head is not None:
        yield HEAD_NAME, head_layout(pack.manifest.head_geometry)


def _vector_faults(pack: Pack, unreadable: set[Path]) -> Iterator[PackError]:
    for layer, entry in enumerate(pack.manifest.layers):
        path = pack.directory / layer_path(layer)
        if path not in unreadable:
            vectors = {name: vector.view("u1") for name, vector in pack.vectors(layer).items()}
            if vectors_digest(vectors) != entry.vectors:
                yield _damaged(path, "a norm or bias")
    path = pack.directory / EMBED_NAME
    if path not in unreadable and digest(pack.final_norm().view("u1")) != pack.manifest.final_norm:
        yield _damaged(path, "the final norm")


def _open_plainly(path: Path) -> None:
    try:
        with safe_open(path, framework="numpy") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise PackError(f"{path} does not open as safetensors: {error}.", hint=_HINT) from error


def _damaged(path: Path, what: str) -> PackError:
    return PackError(f"{path}: {what} is not what was imported.", hint=_HINT)

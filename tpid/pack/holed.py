"""A pack with holes: the files of a pack, sparse, with the pieces that this device was sent.

Headers and offsets are those of the whole pack, which the manifest alone decides, so a share is read from it like from
any other. What is there says `presence.json`; whatever lies in the files beside that is not looked at.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tpid.errors import PackError, TpidError
from tpid.model.tensorfile import build_header
from tpid.model.weightfile import WeightFile
from tpid.pack.geometry import Block, Share, UnitRange
from tpid.pack.held import held
from tpid.pack.manifest import PackId, layer_path
from tpid.pack.pieces import Piece, piece_bytes, piece_digest, pieces_of, split_vectors
from tpid.pack.presence import MAX_PRESENCE_BYTES, Presence
from tpid.pack.reader import Pack, open_layout
from tpid.pack.staging import write_whole
from tpid.pack.verify import digest

PRESENCE_NAME: Final = "presence.json"


class HoledPack:
    """`write` and `save` take their time: not for the event loop. The rest does not block."""

    def __init__(self, directory: Path) -> None:
        """Raises PackError where there is no sound manifest. A presence map that is not sound counts as an empty one,
        and so does the part of it whose file is not: what it told of can be fetched again."""
        self.pack = Pack(directory)
        self.presence = _load_presence(self.pack)
        self._unsaved: set[Path] = set()
        self._lock = (
            threading.Lock()
        )  # of the files' beginnings, and of what is unsaved: pieces come in several threads
        self._saving = threading.Lock()

    @property
    def id(self) -> PackId:
        return self.pack.id

    @property
    def used_s(self) -> float:
        """When it was used last, by the system's clock; 0 where nothing of it ever came."""
        try:
            return (self.pack.directory / PRESENCE_NAME).stat().st_mtime
        except OSError:
            return 0.0

    def missing(self, share: Share) -> dict[Piece, int]:
        """What a worker with this share still needs, in the order of a pass, and its sizes."""
        pieces = self.presence.missing(pieces_of(self.pack.manifest, share))
        return {piece: piece_bytes(self.pack, piece) for piece in pieces}

    def is_genuine(self, piece: Piece, data: bytes | bytearray | memoryview) -> bool:
        return digest(data) == piece_digest(self.pack.manifest, piece)  # type: ignore[arg-type]

    def write(self, piece: Piece, data: bytes | bytearray | memoryview) -> None:
        """A genuine piece into its place; it counts when it is added to the presence map. Raises OSError."""
        with self._lock:
            path = self._file(piece.layer)
        with path.open("r+b", buffering=0) as file:
            if piece.half is None:
                for name, vector in split_vectors(self.pack, piece.layer, data).items():
                    _write_at(file.fileno(), memoryview(vector).cast("B"), self.pack.vector_offset(piece.layer, name))
            else:
                units = UnitRange(piece.unit, piece.unit + 1)
                _write_at(file.fileno(), data, self.pack.block_range(Block(piece.layer, piece.half), units).offset)
        with self._lock:
            self._unsaved.add(path)

    def save(self, presence: bytes) -> None:
        """The files first, then the map that tells of them, `presence` as it was encoded. Raises OSError."""
        with self._saving:
            with self._lock:
                unsaved, self._unsaved = self._unsaved, set()
            for path in sorted(unsaved):
                _sync(path)
            for directory in {path.parent for path in unsaved}:
                _sync(directory)  # which files there are
            write_whole(self.pack.directory / PRESENCE_NAME, presence)

    def touch(self) -> None:
        """It is used now."""
        with contextlib.suppress(OSError):
            os.utime(self.pack.directory / PRESENCE_NAME)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else writes into it meanwhile, or removes it. Raises PackError where somebody does."""
        reason = f"Another tpid writes units into {self.pack.directory}."
        with held(self.pack.directory, PackError(reason, hint="Give each its own models_dir.")):
            yield

    def _file(self, layer: int) -> Path:
        """The layer's file, made with its header and nothing in it where it is new."""
        path = self.pack.directory / layer_path(layer)
        if not path.exists():
            layout = self.pack.layer_layout(layer)
            header = build_header(layout.tensors())
            path.parent.mkdir(exist_ok=True)
            beside = path.with_name(path.name + ".new")
            with beside.open("wb") as file:
                file.write(header)
                file.truncate(len(header) + layout.size_bytes)
            beside.replace(path)
        return path


def _load_presence(pack: Pack) -> Presence:
    path = pack.directory / PRESENCE_NAME
    try:
        with WeightFile(path) as file:
            data = file.read_all(MAX_PRESENCE_BYTES)
        presence = Presence.decode(data, pack.manifest, str(path))
    except TpidError:
        return Presence(pack.manifest)
    for layer in presence.layers:
        path = pack.directory / layer_path(layer)
        layout = pack.layer_layout(layer)
        try:
            open_layout(path, layout)
            if path.stat().st_size == len(build_header(layout.tensors())) + layout.size_bytes:
                continue
        except (PackError, OSError):
            pass
        presence.forget(layer)
        with contextlib.suppress(OSError):
            path.unlink()  # it is made anew
    return presence


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_at(descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    view, done = memoryview(data), 0
    while done < len(view):
        done += os.pwrite(descriptor, view[done:], offset + done)

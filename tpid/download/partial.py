"""A file that is being fetched, and beside it what of it is there: a fetch that was cut goes on at the byte."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

SEGMENT_BYTES = 32 << 20  # at least; each is one request
MAX_SEGMENTS = 4096
SAVE_INTERVAL_S = 2.0
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Identity:
    """What must be the same for a half-done file to be gone on with."""

    size_bytes: int
    etag: str | None
    sha256: str | None

    def is_of(self, other: "Identity") -> bool:
        """The same bytes: a digest says so alone, for mirrors may differ in their tags; without either, never."""
        if self.size_bytes != other.size_bytes:
            return False
        if self.sha256 is not None and other.sha256 is not None:
            return self.sha256 == other.sha256
        return self.etag is not None and self.etag == other.etag

    def differs_from(self, other: "Identity") -> bool:
        """Surely other bytes, as a source tells them within one fetch."""
        if self.size_bytes != other.size_bytes:
            return True
        if self.sha256 is not None and other.sha256 is not None:
            return self.sha256 != other.sha256
        return self.etag is not None and other.etag is not None and self.etag != other.etag


@dataclass(slots=True)
class Segment:
    """Bytes `start` to `stop` of the file, of which the first `done` are there."""

    start: int
    stop: int
    done: int = 0

    @property
    def position(self) -> int:
        return self.start + self.done

    @property
    def is_whole(self) -> bool:
        return self.position == self.stop


class PartialFile:
    """`path` + ".partial" and its state; becomes `path` by `publish`. A context manager, which saves and closes."""

    def __init__(self, path: Path, identity: Identity) -> None:
        """Goes on with what is there of the same file, or begins. Raises OSError."""
        self.path = path
        self.identity = identity
        self._data = path.with_name(path.name + ".partial")
        self._state = path.with_name(path.name + ".partial.json")
        self.segments = self._loaded() or list(_divided(identity.size_bytes))
        self._fd = os.open(self._data, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.ftruncate(self._fd, identity.size_bytes)
        self._saved_s = time.monotonic()
        self.done_bytes = sum(segment.done for segment in self.segments)

    def write(self, segment: Segment, data: bytes | memoryview) -> None:
        """The next bytes of a segment, which must not go beyond its end."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, segment.position)
            segment.done += written
            self.done_bytes += written
            view = view[written:]
        if time.monotonic() - self._saved_s >= SAVE_INTERVAL_S:
            self.save()

    def forget(self) -> None:
        """Begin again: what is there is not what the source has now."""
        for segment in self.segments:
            segment.done = 0
        self.done_bytes = 0
        self.save()

    def save(self) -> None:
        """The state never tells of bytes that a power cut could take back."""
        state = {
            "version": _VERSION,
            "size_bytes": self.identity.size_bytes,
            "etag": self.identity.etag,
            "sha256": self.identity.sha256,
            "done": [segment.done for segment in self.segments],
        }
        os.fdatasync(self._fd)
        beside = self._state.with_name(self._state.name + ".new")
        beside.write_text(json.dumps(state))
        beside.replace(self._state)
        self._saved_s = time.monotonic()

    def read(self, start: int, size_bytes: int) -> bytes:
        return os.pread(self._fd, size_bytes, start)

    def publish(self) -> Path:
        """All of it is there."""
        os.fsync(self._fd)
        self._data.replace(self.path)
        self._state.unlink(missing_ok=True)
        return self.path

    def discard(self) -> None:
        self._data.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._data.exists():
                with contextlib.suppress(OSError):  # a full disk; what was saved before is true still
                    self.save()
        finally:
            os.close(self._fd)

    def _loaded(self) -> list[Segment] | None:
        """From a state that fits; None where there is none, or it is of another file."""
        try:
            state = json.loads(self._state.read_bytes())
            there = self._data.stat().st_size == self.identity.size_bytes
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(state, dict) or state.get("version") != _VERSION or not there:
            return None
        before = _identity(state)
        if before is None or not before.is_of(self.identity):
            return None
        segments, done = list(_divided(self.identity.size_bytes)), state.get("done")
        if not isinstance(done, list) or len(done) != len(segments):
            return None
        for segment, n_bytes in zip(segments, done, strict=True):
            if type(n_bytes) is not int or not 0 <= n_bytes <= segment.stop - segment.start:
                return None
            segment.done = n_bytes
        return segments


def _identity(state: dict[str, object]) -> Identity | None:
    size_bytes, etag, sha256 = state.get("size_bytes"), state.get("etag"), state.get("sha256")
    if type(size_bytes) is not int or not isinstance(etag, str | None) or not isinstance(sha256, str | None):
        return None
    return Identity(size_bytes, etag, sha256)


def _divided(size_bytes: int) -> Iterator[Segment]:
    step = max(SEGMENT_BYTES, -(-size_bytes // MAX_SEGMENTS))
    for start in range(0, size_bytes, step):
        yield Segment(start, min(start + step, size_bytes))

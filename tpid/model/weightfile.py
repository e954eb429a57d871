"""A published file of weights, read by offset: no mapping, so memory is what a caller asks for and no more."""

import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from tpid.errors import ModelFileError
from tpid.model.mistaken import START_BYTES, refuse_pointer
from tpid.size import shown_size

OPEN_HINT = "Check the path, and that the daemon may read it."
CUT_HINT = "The download has not come to its end: go on with it, or download the file again."

U8 = NDArray[np.uint8]


class WeightFile:
    """An open regular file. Reads may come from any thread."""

    def __init__(self, path: Path) -> None:
        """Raises ModelFileError."""
        self.path = path
        try:
            # Without O_NONBLOCK, opening a FIFO waits for a writer.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise ModelFileError(f"{path} cannot be opened: {error.strerror}.", hint=OPEN_HINT) from error
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise ModelFileError(f"{path} is not a regular file.", hint="Give the file itself.")
        self.size_bytes = status.st_size
        self.modified_ns = status.st_mtime_ns
        try:
            refuse_pointer(path, os.pread(self._fd, START_BYTES, 0), self.size_bytes)
        except OSError as error:
            self.close()
            raise self._unreadable(error) from error
        except ModelFileError:
            self.close()
            raise

    def read(self, offset: int, size_bytes: int) -> U8:
        """Exactly `size_bytes` bytes, [size_bytes] uint8. Raises ModelFileError where the file ends before them."""
        missing = offset + size_bytes - self.size_bytes
        if missing > 0:
            raise self._too_short(missing)
        out = np.empty(size_bytes, np.uint8)
        view, done = memoryview(out), 0
        while done < size_bytes:
            try:
                n_read = os.preadv(self._fd, [view[done:]], offset + done)
            except OSError as error:
                raise self._unreadable(error) from error
            if n_read == 0:  # cut since it was opened
                raise self._too_short(size_bytes - done)
            done += n_read
        return out

    def read_all(self, max_bytes: int) -> bytes:
        """Its content. Raises ModelFileError for more than `max_bytes`."""
        if self.size_bytes > max_bytes:
            size, most = shown_size(self.size_bytes), shown_size(max_bytes)
            raise ModelFileError(
                f"{self.path} has {size}, more than the {most} that it may have.",
                hint="Check where it comes from: no published model has such a file.",
            )
        return self.read(0, self.size_bytes).tobytes()

    def stream(self) -> BinaryIO:
        """A reader of its own, to be closed by the caller."""
        return open(os.dup(self._fd), "rb", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _unreadable(self, error: OSError) -> ModelFileError:
        return ModelFileError(f"{self.path} cannot be read: {error.strerror}.", hint="Check the disk that it lies on.")

    def _too_short(self, missing_bytes: int) -> ModelFileError:
        return ModelFileError(f"{self.path} ends {shown_size(missing_bytes)} too early.", hint=CUT_HINT)


def fingerprint(files: Iterable[tuple[WeightFile, int]]) -> str:
    """SHA-256 over name, size, time of change and the first n bytes of each file: cheap, for weights are not read."""
    digest = hashlib.sha256()
    for file, header_bytes in files:
        digest.update(f"{file.path.name}\0{file.size_bytes}\0{file.modified_ns}\0{header_bytes}\0".encode())
        digest.update(file.read(0, header_bytes))
    return digest.hexdigest()

"""Files of weights, read past the page cache: what streams through a window must not stay in memory twice."""

import os
from concurrent.futures import Executor
from pathlib import Path

from aiofiles.os import wrap

from tpid.errors import LoadError
from tpid.pack.direct import open_direct, read_at
from tpid.pack.reader import ByteRange

_HINT = "Check the disk; `tpictl verify --pack` finds what is damaged, importing the model again mends it."


class DirectFiles:
    """Open files by path. Once one is open, another that takes its name does not matter.

    Where a file system refuses direct I/O, reads are buffered and the cache is dropped behind them.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._open: dict[Path, tuple[int, bool]] = {}  # descriptor, and whether it is direct
        self._read = wrap(_read)

    async def read(self, name: str, where: ByteRange, offset: int, out: memoryview) -> None:
        """Fill `out` from byte `offset` of the range; both lie on pages. `name` says in errors what is read.

        Raises LoadError with file, place and reason.
        """
        at = where.offset + offset
        try:
            if where.path not in self._open:
                self._open[where.path] = open_direct(where.path)
            n = await self._read(*self._open[where.path], out, at, executor=self._executor)
        except OSError as error:
            reason = f"{where.path} cannot be read at byte {at} ({name}): {error.strerror}."
            raise LoadError(reason, hint=_HINT) from error
        if n < len(out):
            raise LoadError(f"{where.path} ends at byte {at + n}, within {name}.", hint=_HINT)

    def close(self) -> None:
        """Only when no read is under way."""
        for descriptor, _ in self._open.values():
            os.close(descriptor)
        self._open.clear()


def _read(descriptor: int, direct: bool, out: memoryview, offset: int) -> int:
    """Bytes that were there."""
    n = read_at(descriptor, out, offset)
    if not direct:
        os.posix_fadvise(descriptor, offset, n, os.POSIX_FADV_DONTNEED)
    return n

"""Files of weights, read past the page cache: what streams through a window must not stay in memory twice."""

import errno
import fcntl
import os
from concurrent.futures import Executor
from pathlib import Path

from aiofiles.os import wrap

from tpid.errors import LoadError
from tpid.pack.direct import READ_HINT, open_direct, read_at
from tpid.pack.reader import ByteRange

_FOLIO_BYTES = 2 << 20  # the cache is kept in pieces of up to this size, and forgets whole ones only


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
            n = await self._read_at(where.path, out, at)
        except OSError as error:
            reason = f"{where.path} cannot be read at byte {at} ({name}): {error.strerror}."
            raise LoadError(reason, hint=READ_HINT) from error
        if n < len(out):
            raise LoadError(f"{where.path} ends before byte {at + len(out)}, within {name}.", hint=READ_HINT)

    async def _read_at(self, path: Path, out: memoryview, at: int) -> int:
        if path not in self._open:
            self._open[path] = open_direct(path)
            if not self._open[path][1]:
                _no_readahead(self._open[path][0])
        descriptor, direct = self._open[path]
        try:
            return await self._read(descriptor, direct, out, at, executor=self._executor)
        except OSError as error:
            if not direct or error.errno != errno.EINVAL:
                raise
        # This file system opens files for direct I/O and then refuses it. Another read may have found out already;
        # the flag belongs to the descriptor, so that all of them go on.
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)
        _no_readahead(descriptor)
        self._open[path] = descriptor, False
        return await self._read(descriptor, False, out, at, executor=self._executor)

    def close(self) -> None:
        """Only when no read is under way."""
        for descriptor, _ in self._open.values():
            os.close(descriptor)
        self._open.clear()


def _no_readahead(descriptor: int) -> None:
    """The cache then has what was asked for and nothing more, which is dropped again."""
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)


def _read(descriptor: int, direct: bool, out: memoryview, offset: int) -> int:
    """Bytes that were there."""
    n = read_at(descriptor, out, offset)
    if not direct:
        first = max(offset - _FOLIO_BYTES, 0)
        os.posix_fadvise(descriptor, first, offset + n + _FOLIO_BYTES - first, os.POSIX_FADV_DONTNEED)
    return n

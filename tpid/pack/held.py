"""A directory that one process has for itself."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from tpid.errors import TpidError


@contextlib.contextmanager
def held(directory: Path, busy: TpidError) -> Iterator[None]:
    """No other holds `directory` meanwhile. Raises `busy` where one does, and OSError."""
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        yield
    finally:
        os.close(lock)

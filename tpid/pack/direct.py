"""Reading files past the page cache, which belongs to others."""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tpid.pack.geometry import ALIGN_BYTES
from tpid.pack.tiles import U8

READ_HINT = "Check the disk; `tpictl verify --pack` finds what is damaged, importing the model again mends it."
BATCH_BYTES = 8 << 20  # a read as large as this costs next to nothing beside its transfer


def read_pieces(path: Path, offset: int, piece_bytes: int, n_pieces: int) -> Iterator[U8]:
    """`n_pieces` of a file one after the other, [piece_bytes] uint8, good until the next; shorter where the file ends.

    `offset` and `piece_bytes` are multiples of 4096. Raises OSError.
    """
    per_batch = max(BATCH_BYTES // piece_bytes, 1)
    descriptor, direct = open_direct(path)
    buffer = np.frombuffer(mmap.mmap(-1, per_batch * piece_bytes), np.uint8)  # page-aligned, as direct I/O asks
    try:
        for first in range(0, n_pieces, per_batch):
            at, size = offset + first * piece_bytes, min(per_batch, n_pieces - first) * piece_bytes
            done = read_at(descriptor, memoryview(buffer)[:size], at)
            if not direct:
                os.posix_fadvise(descriptor, at, size, os.POSIX_FADV_DONTNEED)
            for start in range(0, size, piece_bytes):
                yield buffer[start : max(min(start + piece_bytes, done), start)]
    finally:
        os.close(descriptor)


def open_direct(path: Path) -> tuple[int, bool]:
    """A descriptor, and whether it is direct: some file systems refuse that, such as those in memory."""
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_DIRECT), True
    except FileNotFoundError:
        raise
    except OSError:
        return os.open(path, flags), False


def read_at(descriptor: int, out: memoryview, offset: int) -> int:
    """Bytes that were there. A direct read that ends within a block has met the end of the file."""
    done = 0
    while done < len(out):
        n = os.preadv(descriptor, [out[done:]], offset + done)
        done += n
        if n == 0 or n % ALIGN_BYTES:
            break
    return done

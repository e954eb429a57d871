"""How fast direct reads are that have nothing else to do: as many, as large, into such memory as those of a pass."""

import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from tpid.memory.buffers import page_aligned
from tpid.memory.prefetch import MAX_READS, READ_BYTES
from tpid.pack.direct import open_direct, read_at
from tpid.pack.geometry import ALIGN_BYTES
from tpid.pack.reader import ByteRange


def whole_file(path: Path) -> ByteRange:
    return ByteRange(path, 0, path.stat().st_size)


def chunks_of(ranges: Iterable[ByteRange]) -> Iterator[ByteRange]:
    """What one read takes each; offsets are multiples of 4096."""
    for where in ranges:
        for done in range(0, where.size_bytes, READ_BYTES):
            yield ByteRange(where.path, where.offset + done, min(READ_BYTES, where.size_bytes - done))


def direct_read_bytes_s(chunks: Iterator[ByteRange], most_s: float) -> float:
    """Takes chunks until there are no more or `most_s` have passed. Raises OSError or LoadError."""
    lock, opened = Lock(), dict[Path, int]()
    buffers = [page_aligned(READ_BYTES) for _ in range(MAX_READS)]
    for buffer in buffers:
        buffer.fill(0)  # its pages come now, not with the first read

    def next_chunk() -> ByteRange | None:
        with lock:
            chunk = next(chunks, None)
            if chunk is not None and chunk.path not in opened:
                opened[chunk.path] = open_direct(chunk.path)[0]
            return chunk

    def read_on(out: memoryview) -> int:
        done = 0
        while time.perf_counter() < deadline and (chunk := next_chunk()) is not None:
            whole_pages = -(-chunk.size_bytes // ALIGN_BYTES) * ALIGN_BYTES  # also where the file ends before
            done += read_at(opened[chunk.path], out[:whole_pages], chunk.offset)
        return done

    try:
        started = time.perf_counter()
        deadline = started + most_s
        with ThreadPoolExecutor(MAX_READS) as threads:
            done = sum(threads.map(read_on, map(memoryview, buffers)))
        return done / (time.perf_counter() - started)
    finally:
        for descriptor in opened.values():
            os.close(descriptor)

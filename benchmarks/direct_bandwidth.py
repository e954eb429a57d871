"""How fast the disk gives a pack to direct reads that have nothing else to do: the reference for what streams.

A reader of our own over just the ranges that stream, with the size and number of reads of the prefetcher; beside it
`fio`, where it is installed, over the whole files.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from tpid.memory.buffers import page_aligned
from tpid.memory.prefetch import MAX_READS, READ_BYTES
from tpid.pack.direct import open_direct, read_at
from tpid.pack.geometry import ALIGN_BYTES

READ_S, FIO_S = 1.0, 2.0
Range = tuple[str, int, int]  # path, offset, bytes


def whole(files: Sequence[Path]) -> list[Range]:
    """Without the last bytes of a file that do not fill a page: direct reads cannot have them alone."""
    sizes = ((path, path.stat().st_size) for path in files)
    return [(str(path), 0, size - size % ALIGN_BYTES) for path, size in sizes if size >= ALIGN_BYTES]


def weight_files(pack: Path) -> list[Path]:
    return sorted(pack.rglob("*.safetensors"))


def fio_bytes_s(files: Sequence[Path]) -> float | None:
    """None where there is no fio. Raises RuntimeError."""
    if shutil.which("fio") is None:
        return None
    command = ["fio", "--name=read", f"--filename={':'.join(map(str, files))}", "--file_service_type=sequential"]
    command += ["--rw=read", "--direct=1", f"--bs={READ_BYTES}", "--ioengine=libaio", f"--iodepth={MAX_READS}"]
    command += ["--readonly", "--time_based", f"--runtime={FIO_S:g}s", "--output-format=json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"fio failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    return float(json.loads(done.stdout)["jobs"][0]["read"]["bw_bytes"])


class DirectReader:
    """Goes around over the ranges, each time on from where it was."""

    def __init__(self, ranges: Sequence[Range]) -> None:
        self._chunks = _chunks(ranges)
        self._opened = {path: open_direct(Path(path))[0] for path, _, _ in ranges}
        self._lock = Lock()

    def bytes_s(self) -> float:
        deadline = time.perf_counter() + READ_S

        def read_on() -> int:
            out, done = memoryview(page_aligned(READ_BYTES)), 0
            while time.perf_counter() < deadline:
                with self._lock:
                    path, offset, size = next(self._chunks)
                done += read_at(self._opened[path], out[:size], offset)
            return done

        started = time.perf_counter()
        with ThreadPoolExecutor(MAX_READS) as threads:
            readers = [threads.submit(read_on) for _ in range(MAX_READS)]
            done = sum(reader.result() for reader in readers)
        return done / (time.perf_counter() - started)

    def close(self) -> None:
        for descriptor in self._opened.values():
            os.close(descriptor)


def _chunks(ranges: Sequence[Range]) -> Iterator[Range]:
    while True:
        for path, offset, size in ranges:
            for done in range(0, size, READ_BYTES):
                yield path, offset + done, min(READ_BYTES, size - done)

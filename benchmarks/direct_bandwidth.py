"""How fast the disk gives a pack to direct reads that have nothing else to do: the reference for what streams.

`fio` where it is installed, else a reader of our own; both with the size and number of reads of the prefetcher.
"""

import json
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

SECONDS = 3.0


def weight_files(pack: Path) -> list[Path]:
    return sorted(pack.rglob("*.safetensors"))


def direct_bytes_s(files: Sequence[Path], seconds: float = SECONDS) -> tuple[float, str]:
    """Bytes a second over the files, one after the other, for so long; and what measured it."""
    if shutil.which("fio"):
        return _by_fio(files, seconds), "fio"
    return _by_ourselves(files, seconds), "own reader"


def _by_fio(files: Sequence[Path], seconds: float) -> float:
    command = ["fio", "--name=read", f"--filename={':'.join(map(str, files))}", "--file_service_type=sequential"]
    command += ["--rw=read", "--direct=1", f"--bs={READ_BYTES}", "--ioengine=libaio", f"--iodepth={MAX_READS}"]
    command += ["--readonly", "--time_based", f"--runtime={seconds}s", "--output-format=json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"fio failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    return float(json.loads(done.stdout)["jobs"][0]["read"]["bw_bytes"])


def _by_ourselves(files: Sequence[Path], seconds: float) -> float:
    chunks, lock = _chunks(files), Lock()
    deadline = time.perf_counter() + seconds
    opened = {path: open_direct(path)[0] for path in files}

    def read_on() -> int:
        out, done = memoryview(page_aligned(READ_BYTES)), 0
        while time.perf_counter() < deadline:
            with lock:
                path, offset = next(chunks)
            done += read_at(opened[path], out, offset)
        return done

    started = time.perf_counter()
    with ThreadPoolExecutor(MAX_READS) as threads:
        readers = [threads.submit(read_on) for _ in range(MAX_READS)]
        done = sum(reader.result() for reader in readers)
    return done / (time.perf_counter() - started)


def _chunks(files: Sequence[Path]) -> Iterator[tuple[Path, int]]:
    """Around and around."""
    sizes = {path: path.stat().st_size for path in files}
    while True:
        for path, size in sizes.items():
            for offset in range(0, size, READ_BYTES):
                yield path, offset

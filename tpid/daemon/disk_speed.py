"""How fast weights come from this device's disk: measured once, kept in the state directory.

Reads go past the page cache, several at a time, as those of a pass do: of the packs that are here, else of a scratch
file beside where they will be. Delete `disk_speed.json` to have it measured again.
"""

import contextlib
import json
import logging
import mmap
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from tpid.memory.prefetch import MAX_READS, READ_BYTES
from tpid.pack.direct import open_direct
from tpid.pack.staging import write_whole

log = logging.getLogger(__name__)

CACHE_NAME = "disk_speed.json"
MOST_BYTES = 512 << 20
LEAST_BYTES = 48 << 20  # less says little
SCRATCH_BYTES = 64 << 20
MOST_S = 0.5  # a daemon should start at once, from a memory card too


@dataclass(frozen=True, slots=True)
class _Measured:
    file_system: str  # what the packs lie on: another one is measured anew
    from_packs: bool
    bytes_s: float


def disk_bytes_s(models: Path, state_dir: Path) -> float:
    """Bytes a second of direct reads from `models`; 0 where nothing can be read or written there."""
    try:
        where = os.statvfs(models)
        file_system = f"{models.stat().st_dev}-{where.f_blocks}-{where.f_frsize}"
        packs = _largest_files(models)
        known = _load(state_dir / CACHE_NAME)
        if known is not None and known.file_system == file_system and known.from_packs >= bool(packs):
            return known.bytes_s
        with contextlib.ExitStack() as stack:
            files = packs or [stack.enter_context(_scratch(models))]
            bytes_s = measure_bytes_s(files)
        measured = _Measured(file_system, bool(packs), bytes_s)
        write_whole(state_dir / CACHE_NAME, json.dumps(asdict(measured)).encode())
    except OSError as error:
        log.warning("disk_not_measured directory=%s reason=%r", models, error.strerror)
        return 0.0
    log.info("disk_measured directory=%s bytes_s=%.0f", models, bytes_s)
    return bytes_s


def measure_bytes_s(files: Sequence[Path]) -> float:
    """Direct reads over the files from their start, for half a second at most. Raises OSError."""
    chunks = iter([(path, offset) for path in files for offset in range(0, path.stat().st_size, READ_BYTES)])
    deadline = time.perf_counter() + MOST_S

    def read_on() -> int:
        """Take one chunk after the other, as long as there are any."""
        done, opened = 0, (Path(), -1)
        with mmap.mmap(-1, READ_BYTES) as buffer:  # page-aligned, as direct I/O asks
            try:
                while time.perf_counter() < deadline and (chunk := next(chunks, None)) is not None:
                    path, offset = chunk
                    if path != opened[0]:
                        if opened[1] >= 0:
                            os.close(opened[1])
                        opened = path, open_direct(path)[0]
                    done += os.preadv(opened[1], [buffer], offset)
            finally:
                if opened[1] >= 0:
                    os.close(opened[1])
        return done

    started = time.perf_counter()
    with ThreadPoolExecutor(MAX_READS) as threads:
        readers = [threads.submit(read_on) for _ in range(MAX_READS)]
        done = sum(reader.result() for reader in readers)
    return done / (time.perf_counter() - started)


def _largest_files(models: Path) -> list[Path]:
    """Of the packs, up to what is read at most; none where they are too small to tell."""
    sizes = sorted(((path.stat().st_size, path) for path in models.glob("*/**/*.safetensors")), reverse=True)
    files, total = [], 0
    for size, path in sizes:
        if total >= MOST_BYTES:
            break
        files.append(path)
        total += size
    return files if total >= LEAST_BYTES else []


@contextlib.contextmanager
def _scratch(directory: Path) -> Iterator[Path]:
    """A file on the disk that is gone afterwards; not of zeros, which some disks do not store."""
    with tempfile.NamedTemporaryFile(prefix=".speed-", dir=directory) as file:
        noise = os.urandom(READ_BYTES)
        for _ in range(SCRATCH_BYTES // READ_BYTES):
            file.write(noise)
        file.flush()
        os.fsync(file.fileno())
        yield Path(file.name)


def _load(path: Path) -> _Measured | None:
    try:
        known = json.loads(path.read_bytes())
        measured = _Measured(str(known["file_system"]), bool(known["from_packs"]), float(known["bytes_s"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return measured if 0 < measured.bytes_s < 2**63 else None

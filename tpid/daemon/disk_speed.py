"""How fast weights come from this device's disk: measured once, kept in the state directory.

Reads go past the page cache, several at a time, as those of a pass do: of the packs that are here, else of a scratch
file beside where they will be. Delete `disk_speed.json` to have it measured again.
"""

import contextlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tpid.errors import LoadError
from tpid.memory.prefetch import READ_BYTES
from tpid.memory.read_speed import chunks_of, direct_read_bytes_s, whole_file
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
    except (OSError, LoadError) as error:
        log.warning("disk_not_measured directory=%s reason=%r", models, str(error))
        return 0.0
    log.info("disk_measured directory=%s bytes_s=%.0f", models, bytes_s)
    return bytes_s


def measure_bytes_s(files: Sequence[Path]) -> float:
    """Direct reads over the files from their start, for half a second at most. Raises OSError or LoadError."""
    return direct_read_bytes_s(chunks_of(map(whole_file, files)), MOST_S)


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

"""A memory cgroup of its own for one process and its children: a limit that the kernel keeps, and the peak it saw.

Version 1 where its memory controller is mounted, else version 2; root is needed for either.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
_REMOVE_TRIES = 50  # the last process of a group leaves it a moment after it has ended
_REMOVE_EVERY_S = 0.1
_numbers = count()


class NoCgroupError(Exception):
    """No memory cgroup can be made here; the message says why."""


@dataclass(frozen=True, slots=True)
class _Names:
    """Of the files of one version."""

    limit: str
    swap: tuple[str, str]  # and what to write so that nothing is swapped
    peak: str
    kills: str


_V1 = _Names("memory.limit_in_bytes", ("memory.swappiness", "0"), "memory.max_usage_in_bytes", "memory.oom_control")
_V2 = _Names("memory.max", ("memory.swap.max", "0"), "memory.peak", "memory.events")


@dataclass(frozen=True, slots=True)
class MemoryCgroup:
    directory: Path
    _names: _Names

    def command(self, command: Sequence[str]) -> list[str]:
        """`command`, in the group from its first page on."""
        return ["sh", "-c", 'echo $$ >"$0" && exec "$@"', str(self.directory / "cgroup.procs"), *command]

    @property
    def peak_bytes(self) -> int:
        """The most that was charged, page cache included."""
        return int((self.directory / self._names.peak).read_text())

    @property
    def killed(self) -> bool:
        """Whether the kernel ended a process of the group for want of memory."""
        lines = (self.directory / self._names.kills).read_text().splitlines()
        return any(line.split()[0] == "oom_kill" and line.split()[1] != "0" for line in lines)


@contextmanager
def memory_cgroup(limit_bytes: int) -> Iterator[MemoryCgroup]:
    """A group that is removed afterwards; its processes must have ended by then. Raises NoCgroupError."""
    root, names = _root()
    directory = root / f"tpid-benchmark-{os.getpid()}-{next(_numbers)}"
    try:
        directory.mkdir()
        (directory / names.limit).write_text(str(limit_bytes))
        if (directory / names.swap[0]).exists():  # not where the kernel counts no swap
            (directory / names.swap[0]).write_text(names.swap[1])
        if not (directory / names.peak).exists():
            raise NoCgroupError(f"This kernel does not tell the peak of a cgroup ({names.peak}); 5.19 and later do.")
    except OSError as error:
        _remove(directory)
        raise NoCgroupError(f"{directory} cannot be made or set: {error.strerror}. Run this as root.") from error
    try:
        yield MemoryCgroup(directory, names)
    finally:
        _remove(directory)


def _root() -> tuple[Path, _Names]:
    if (CGROUPS / "memory" / _V1.limit).exists():
        return CGROUPS / "memory", _V1
    for root in (CGROUPS, CGROUPS / "unified"):
        controllers = root / "cgroup.subtree_control"
        if not controllers.exists() or "memory" not in (root / "cgroup.controllers").read_text().split():
            continue
        try:
            if "memory" not in controllers.read_text().split():
                controllers.write_text("+memory")
        except OSError as error:
            raise NoCgroupError(f"{controllers} refuses +memory: {error.strerror}. Run this as root.") from error
        return root, _V2
    raise NoCgroupError(f"No memory cgroup under {CGROUPS}, neither version 1 nor 2: nothing would keep the budget.")


def _remove(directory: Path) -> None:
    for _ in range(_REMOVE_TRIES):
        try:
            directory.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(_REMOVE_EVERY_S)
        else:
            return

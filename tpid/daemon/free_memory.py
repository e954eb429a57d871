"""How much memory this process can get without taking any from others: the system's, or what its cgroup allows.

A container or a service may be allowed far less than the machine has, and the system's figure does not say so.
"""

from collections.abc import Iterator
from pathlib import Path

import psutil

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


def free_memory_bytes(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Free or reclaimable, here and in each cgroup above this process."""
    return min([psutil.virtual_memory().available, *_in_cgroups(proc, cgroups)])


def _in_cgroups(proc: Path, cgroups: Path) -> Iterator[int]:
    """Version 2 has one tree, version 1 one for memory; both may be mounted."""
    for line in _lines(proc / "self" / "cgroup"):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            yield from _up(cgroups, path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _up(cgroups / "memory", path, *names)


def _up(tree: Path, path: str, limit_name: str, usage_name: str, reclaimable: str) -> Iterator[int]:
    """What each group from this process's to the root has left. A container sees its own group as the root."""
    directory = tree / path.lstrip("/")
    for group in (directory, *directory.parents):
        if not group.is_relative_to(tree):
            return
        limit, usage = _number(group / limit_name), _number(group / usage_name)
        if limit is not None and usage is not None:
            cached = [line.split()[1] for line in _lines(group / "memory.stat") if line.split()[:1] == [reclaimable]]
            yield max(limit - usage + (int(cached[0]) if cached else 0), 0)


def _number(path: Path) -> int | None:
    """None where there is no such file, or no limit in it."""
    text = "".join(_lines(path)[:1]).strip()
    return int(text) if text.isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []

"""How much memory this process can get without taking any from others: the system's, or what its cgroup allows."""

from collections.abc import Iterator
from pathlib import Path

import psutil

from tpid.daemon.cgroups import CGROUPS, PROC, groups_of, lines_of, number_in

_NAMES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def free_memory_bytes(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Free or reclaimable, here and in each cgroup above this process."""
    return min([psutil.virtual_memory().available, *_in_cgroups(proc, cgroups)])


def _in_cgroups(proc: Path, cgroups: Path) -> Iterator[int]:
    for version, group in groups_of("memory", proc, cgroups):
        limit_name, usage_name, reclaimable = _NAMES[version]
        limit, usage = number_in(group / limit_name), number_in(group / usage_name)
        if limit is not None and usage is not None:
            cached = [line.split()[1] for line in lines_of(group / "memory.stat") if line.split()[:1] == [reclaimable]]
            yield max(limit - usage + (int(cached[0]) if cached else 0), 0)

"""How many cores this process may use at once: those it is bound to, or the time that its cgroup allows."""

import os
from collections.abc import Iterator
from pathlib import Path

from tpid.daemon.cgroups import CGROUPS, PROC, groups_of, lines_of, number_in


def allowed_cores(proc: Path = PROC, cgroups: Path = CGROUPS) -> float:
    """Not whole where it is time that is allowed: 1.5 cores are 150 ms in each 100 ms."""
    return min([float(len(os.sched_getaffinity(0))), *_in_cgroups(proc, cgroups)])


def _in_cgroups(proc: Path, cgroups: Path) -> Iterator[float]:
    for version, group in groups_of("cpu", proc, cgroups):
        if version == 1:
            quota, period = number_in(group / "cpu.cfs_quota_us"), number_in(group / "cpu.cfs_period_us")
        else:
            words = [int(word) for word in "".join(lines_of(group / "cpu.max")[:1]).split() if word.isdigit()]
            quota, period = words if len(words) == 2 else (None, None)
        if quota is not None and period:
            yield quota / period

"""Control groups of one host, of version 1: CPU time, memory, and what it reads from the disk.

A quota of CPU time counts in short periods: in the usual 100 ms a host of a quarter of a core would compute at full
speed for 25 ms and then stand still, and a benchmark would measure it as either.
"""

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from homelab.programs import LabError

CGROUPS = Path("/sys/fs/cgroup")
CPU_PERIOD_US = 4000
_MIN_QUOTA_US = 1000  # the kernel takes no less
_REMOVE_TRIES = 50  # the last process of a group leaves it a moment after it has ended
_REMOVE_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """None: no limit."""

    cores: float | None = None
    memory_bytes: int | None = None
    read_bytes_s: int | None = None


def make_groups(name: str, limits: Limits, disk: Path) -> list[Path]:
    """The groups of a host; each limit is set. `disk` is a path on the disk that is limited. Raises LabError."""
    groups = []
    if limits.cores is not None:
        period_us = max(CPU_PERIOD_US, int(_MIN_QUOTA_US / limits.cores))
        values = {"cpu.cfs_period_us": period_us, "cpu.cfs_quota_us": int(limits.cores * period_us)}
        groups.append(_make("cpu", name, values))
    if limits.memory_bytes is not None:
        groups.append(_make("memory", name, {"memory.limit_in_bytes": limits.memory_bytes}))
    if limits.read_bytes_s is not None:
        number = disk.stat().st_dev
        rule = f"{os.major(number)}:{os.minor(number)} {limits.read_bytes_s}"
        groups.append(_make("blkio", name, {"blkio.throttle.read_bps_device": rule}))
    return groups


def within(groups: Sequence[Path], command: Sequence[str]) -> list[str]:
    """`command`, in the groups from its first page on."""
    if not groups:
        return list(command)
    enter = "".join(f"echo $$ >{group / 'cgroup.procs'} && " for group in groups)
    return ["sh", "-c", f'{enter}exec "$@"', "sh", *command]


def remove_groups(prefix: str) -> None:
    """All groups whose names begin so; their processes must have ended."""
    for group in CGROUPS.glob(f"*/{prefix}*"):
        for _ in range(_REMOVE_TRIES):
            with contextlib.suppress(OSError):
                group.rmdir()
            if not group.exists():
                break
            time.sleep(_REMOVE_EVERY_S)


def _make(controller: str, name: str, values: Mapping[str, object]) -> Path:
    group = CGROUPS / controller / name
    try:
        if not (group.parent / "cgroup.procs").exists():
            raise LabError(f"There is no {controller} cgroup of version 1: this limit cannot be kept.")
        group.mkdir(exist_ok=True)
        for file, value in values.items():
            (group / file).write_text(str(value))
    except OSError as error:
        raise LabError(f"The limit {controller} cannot be set: {error.filename}: {error.strerror}.") from error
    return group

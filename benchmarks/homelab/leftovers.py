"""Names that tell whose a home is, and the removal of homes whose owner has ended without taking them down.

All that a home makes carries its tag: network namespaces, control groups, and the directory in which its disks are
mounted. The tag has the owner's process id and the moment of its start, so that no other process is taken for it.
"""

import contextlib
import itertools
import os
import re
import shutil
import signal
import tempfile
from pathlib import Path

from homelab.limits import CGROUPS, remove_groups
from homelab.programs import run

NAMESPACES = Path("/run/netns")
_TAG = re.compile(r"tpid-lab-(\d+)-(\d+)-\d+")
_numbers = itertools.count()


def new_tag() -> str:
    return f"tpid-lab-{os.getpid()}-{_started(os.getpid())}-{next(_numbers)}"


def directory_of(tag: str) -> Path:
    """Short, because Unix sockets lie in it."""
    return Path(tempfile.gettempdir()) / tag


def remove_leftovers() -> list[str]:
    """Takes down each home whose owner is no more; gives their tags."""
    places = (NAMESPACES, Path(tempfile.gettempdir()), *CGROUPS.glob("*/"))
    tags = {
        match[0] for place in places if place.is_dir() for path in place.iterdir() if (match := _TAG.match(path.name))
    }
    dead = sorted(tag for tag in tags if not _has_owner(tag))
    for tag in dead:
        remove(tag)
    return dead


def remove(tag: str) -> None:
    """Processes, namespaces, disks, groups and files of a home; what is not there any more is no trouble."""
    namespaces = [path.name for path in NAMESPACES.glob(f"{tag}-*")] if NAMESPACES.is_dir() else []
    for namespace in namespaces:
        _kill_all(namespace)
        run("ip", "netns", "del", namespace, check=False)
    remove_groups(f"{tag}-")
    directory = directory_of(tag)
    for disk in directory.glob("*/disk"):
        run("umount", "--lazy", disk, check=False)
    shutil.rmtree(directory, ignore_errors=True)


def _kill_all(namespace: str) -> None:
    for pid in run("ip", "netns", "pids", namespace, check=False).split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def _has_owner(tag: str) -> bool:
    match = _TAG.fullmatch(tag)
    return match is not None and _started(int(match[1])) == int(match[2])


def _started(pid: int) -> int | None:
    """When a process began, in the kernel's ticks; None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])

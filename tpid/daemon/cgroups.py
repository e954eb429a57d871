"""The cgroups that this process is in: a container or a service may be allowed far less than the machine has."""

from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


def groups_of(controller: str, proc: Path = PROC, cgroups: Path = CGROUPS) -> Iterator[tuple[int, Path]]:
    """The version of each tree, which is 1 or 2, and its groups, from this process's to the root. Version 2 has one
    tree, version 1 one for each controller; both may be mounted. A container sees its own group as the root."""
    for line in lines_of(proc / "self" / "cgroup"):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            version, tree = 2, cgroups
        elif controller in controllers.split(","):
            version, tree = 1, cgroups / controller
        else:
            continue
        directory = tree / path.lstrip("/")
        for group in (directory, *directory.parents):
            if not group.is_relative_to(tree):
                break
            yield version, group


def lines_of(path: Path) -> list[str]:
    """Empty where the file cannot be read."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def number_in(path: Path) -> int | None:
    """None where there is no such file, or no limit in it."""
    text = "".join(lines_of(path)[:1]).strip()
    return int(text) if text.isdigit() else None

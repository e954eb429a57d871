from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from tpid.daemon.free_memory import free_memory_bytes

GIB = 1 << 30
UNLIMITED = 9223372036854771712  # what version 1 says where there is no limit


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=16 * GIB))


def write(root: Path, files: dict[str, object]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


def free(root: Path) -> int:
    return free_memory_bytes(root / "proc", root / "cgroup")


def test_without_cgroups_it_is_what_the_system_has(tmp_path: Path) -> None:
    assert free(tmp_path) == 16 * GIB
    write(tmp_path, {"proc/self/cgroup": "0::/"})
    assert free(tmp_path) == 16 * GIB


def test_version_2(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/system.slice/tpid.service",
            "cgroup/system.slice/memory.max": "max",
            "cgroup/system.slice/memory.current": 5 * GIB,
            "cgroup/system.slice/tpid.service/memory.max": GIB,
            "cgroup/system.slice/tpid.service/memory.current": GIB // 4,
            "cgroup/system.slice/tpid.service/memory.stat": f"anon 5\nfile 9\ninactive_file {GIB // 8}",
        },
    )
    assert free(tmp_path) == GIB - GIB // 4 + GIB // 8


def test_a_group_above_may_be_the_narrower_one(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/a/b",
            "cgroup/a/memory.max": 2 * GIB,
            "cgroup/a/memory.current": GIB,
            "cgroup/a/b/memory.max": 8 * GIB,
            "cgroup/a/b/memory.current": 0,
        },
    )
    assert free(tmp_path) == GIB


@pytest.mark.parametrize("controllers", ["memory", "cpu,memory"])
def test_version_1(tmp_path: Path, controllers: str) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": f"9:name=systemd:/\n4:{controllers}:/x:y/z\n3:cpuset:/\n0::/",
            "cgroup/memory/memory.limit_in_bytes": UNLIMITED,
            "cgroup/memory/memory.usage_in_bytes": 9 * GIB,
            "cgroup/memory/x:y/z/memory.limit_in_bytes": GIB,
            "cgroup/memory/x:y/z/memory.usage_in_bytes": GIB // 2,
            "cgroup/memory/x:y/z/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB // 4}",
        },
    )
    assert free(tmp_path) == GIB - GIB // 4


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    """With a namespace of its own the path is that of the host, which is not there."""
    write(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/docker/0123\n0::/docker/0123",
            "cgroup/memory/memory.limit_in_bytes": 2 * GIB,
            "cgroup/memory/memory.usage_in_bytes": 0,
            "cgroup/memory.max": 3 * GIB,
            "cgroup/memory.current": 0,
        },
    )
    assert free(tmp_path) == 2 * GIB


def test_more_used_than_allowed_leaves_nothing(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"proc/self/cgroup": "0::/a", "cgroup/a/memory.max": GIB, "cgroup/a/memory.current": 2 * GIB},
    )
    assert free(tmp_path) == 0


@pytest.mark.parametrize("cgroup", ["", "nonsense", "0", "0::", "::::", "0::/../../..", "\x00"])
def test_what_makes_no_sense_is_passed_over(tmp_path: Path, cgroup: str) -> None:
    write(tmp_path, {"proc/self/cgroup": cgroup, "cgroup/memory.max": "x", "cgroup/memory.current": 1})
    assert free(tmp_path) == 16 * GIB

import os
from pathlib import Path

import pytest

from tpid.daemon.allowed_cores import allowed_cores


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/a/b", "cgroup/a/cpu.max": "max 100000"}, 8),
        ({"proc/self/cgroup": "0::/a/b", "cgroup/a/cpu.max": "150000 100000", "cgroup/a/b/cpu.max": "max 1"}, 1.5),
        ({"proc/self/cgroup": "0::/a/b", "cgroup/a/cpu.max": "900000 100000"}, 8),  # more than there are
        (
            {
                "proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/a",
                "cgroup/cpu/a/cpu.cfs_quota_us": "200000",
                "cgroup/cpu/a/cpu.cfs_period_us": "100000",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu:/a",
                "cgroup/cpu/a/cpu.cfs_quota_us": "-1",
                "cgroup/cpu/a/cpu.cfs_period_us": "100000",
            },
            8,
        ),
        ({"proc/self/cgroup": "0::/a", "cgroup/a/cpu.max": "nonsense"}, 8),
    ],
)
def test_the_narrowest_limit_counts(tmp_path: Path, files: dict[str, str], cores: float) -> None:
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    assert allowed_cores(tmp_path / "proc", tmp_path / "cgroup") == cores

"""`make demo`, as far as it is ours: two daemons, an answer, the plan, and nothing left behind."""

import shutil
import subprocess
import sys
from pathlib import Path

import psutil

from tpid.pack.reader import Pack


def test_the_demo_answers_from_a_pipe_and_leaves_nothing(tmp_path: Path, smollm2: Pack) -> None:
    shutil.copytree(smollm2.directory, tmp_path / ".demo" / "models" / "smollm2-135m")
    result = subprocess.run(
        [sys.executable, "-m", "tpid.daemon.demo"],
        cwd=tmp_path,
        input="What is the capital of France?\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "Paris" in result.stdout
    for word in ("laptop", "desktop", "2 devices", "TTFT", "tok/s"):
        assert word in result.stdout
    assert not [process for process in psutil.process_iter() if _mentions(process, str(tmp_path))]


def _mentions(process: psutil.Process, text: str) -> bool:
    try:
        return any(text in argument for argument in process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False

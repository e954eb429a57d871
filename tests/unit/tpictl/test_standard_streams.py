"""tpictl with standard streams that are closed, full, or without a reader: one sentence, no traceback."""

import os
import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-m", "tpictl.main"]


def run(shell: str) -> "subprocess.CompletedProcess[str]":
    """`$TPICTL` in it is the command; no daemon answers it."""
    environment = os.environ | {"TPICTL": " ".join(COMMAND), "TPID_SOCKET": "/nonexistent/tpid.sock"}
    return subprocess.run(["sh", "-c", shell], env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("command", ["status", "models", "chat", "chat --json"])
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_traceback(command: str, closed: str) -> None:
    result = run(f"$TPICTL {command} {closed}")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["status", "status --json", "--version"])
def test_full_disks_behind_both_leave_the_exit_code(command: str) -> None:
    result = run(f"$TPICTL {command} >/dev/full 2>/dev/full")
    assert result.returncode == 1


def test_a_full_disk_behind_stdout_is_one_sentence() -> None:
    result = run("$TPICTL --version >/dev/full")
    assert "Traceback" not in result.stderr
    result = run("$TPICTL status --json >/dev/full")
    assert result.returncode == 1
    assert result.stderr == "tpictl: The output cannot be written: No space left on device.\n"

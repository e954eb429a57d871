"""Runs targets in child processes and says what came of it."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.child import EXECUTIONS

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
_STARTS_S = 60  # what a child may take beside its fuzzing
_MOST_RESTARTS = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """`failure` is the report of the input that failed, which is kept as `input`; None where none did."""

    name: str
    executions: int
    seconds: float
    failure: str | None = None
    input: Path | None = None


def target_names() -> list[str]:
    return sorted(path.stem for path in (HERE / "targets").glob("*.py") if path.stem != "__init__")


def run_target(name: str, seconds: float, keep: Path) -> Outcome:
    """Run the kept corpus of a target, then fuzz it for `seconds`.

    Below `keep`, which outlives the run, lie the inputs that were new and those that failed.
    """
    found, failed = keep / name, keep / "failed"
    found.mkdir(parents=True, exist_ok=True)
    failed.mkdir(parents=True, exist_ok=True)
    corpora = [found, *(path for path in [HERE / "corpus" / name] if path.is_dir())]
    begin_s, executions = time.monotonic(), 0
    for _ in range(_MOST_RESTARTS):
        left_s = seconds - (time.monotonic() - begin_s)
        with tempfile.TemporaryDirectory(prefix=f"fuzz-{name}-") as directory:
            report = _child(name, "fuzz", [max(left_s, 1), *corpora], Path(directory), left_s)
            executions += max(map(int, re.findall(rf"^{EXECUTIONS}\s*(\d+)", report.text, re.MULTILINE)), default=0)
            if report.code == 0:
                return Outcome(name, executions, time.monotonic() - begin_s)
            inputs = sorted(path for path in Path(directory).iterdir() if path.is_file())
            if not inputs:  # before any input: the target itself is broken
                return Outcome(name, executions, time.monotonic() - begin_s, report.text)
            input = failed / f"{name}-{inputs[0].name}"
            shutil.copyfile(inputs[0], input)
            replay = _child(name, "replay", [input], Path(directory), 0)
        if replay.code != 0 or "LimitExceeded" not in report.text:
            text = replay.text if replay.code != 0 else report.text
            return Outcome(name, executions, time.monotonic() - begin_s, text, input)
        input.unlink()  # only the instruments made it slow
    return Outcome(name, executions, time.monotonic() - begin_s)


@dataclass(frozen=True, slots=True)
class _Report:
    code: int
    text: str


def _child(name: str, how: str, arguments: Iterable[object], directory: Path, seconds: float) -> _Report:
    command = [sys.executable, "-m", "tests.fuzz.child", name, how, *map(str, arguments)]
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TMPDIR": str(directory)}
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds + _STARTS_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return _Report(1, (error.stdout or b"").decode(errors="replace") + f"\n{name} did not end.")
    return _Report(done.returncode, done.stdout.decode(errors="replace"))

"""This machine's kernels under the compiler's sanitizers: no byte out of bounds, nothing undefined, no race."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tpid.compute.native.library import kernel_names, load

# Each function once, with what the shipped build makes constants of as variables: the same lines and the same checks,
# in a tenth of the time to compile.
ONCE = ("cc", "-O1", "-g", "-DINLINE=static inline")
ADDRESS = ("-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all")
THREAD = ("-fsanitize=thread",)


def test_bounds_and_undefined_behaviour(build: Callable[..., Path], judge: Callable[..., list[str]]) -> None:
    program = build(*ONCE, *ADDRESS)
    assert judge(str(program)) == kernel_names(load())


def test_races(build: Callable[..., Path], judge: Callable[..., list[str]]) -> None:
    program = build(*ONCE, *THREAD)
    # Its shadow memory has a place of its own, which some kernels' address randomization takes.
    command = ["setarch", "-R", str(program)] if shutil.which("setarch") else [str(program)]
    started = subprocess.run([*command, "/dev/null"], capture_output=True, text=True, check=False)
    if "ends too early" not in started.stderr:
        pytest.skip(f"the thread sanitizer does not start here: {started.stderr.strip().splitlines()[-1]}")
    assert judge(*command) == kernel_names(load())

"""check_kernels.c, built for a processor or with a sanitizer, and its run over random cases."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.native.cases import write_cases
from tpid.compute.native.library import load

REPOSITORY = Path(__file__).parent.parent.parent
KERNELS = REPOSITORY / "tpid" / "compute" / "native"
# A change is judged by the same cases each time; new ones are tried wherever somebody works on it.
SEED = 1 if "CI" in os.environ else int.from_bytes(os.urandom(4), "little")


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`build(compiler, *flags)` gives the program; skips where the compiler cannot build with these flags at all."""

    def make(compiler: str, *flags: str) -> Path:
        if shutil.which(compiler) is None:
            pytest.skip(f"there is no {compiler} (make cross-tools installs what the tests for ARM need)")
        directory = tmp_path_factory.mktemp("check_kernels")
        (directory / "empty.c").write_text("int main(void) { return 0; }\n")
        empty = [compiler, *flags, str(directory / "empty.c"), "-o", str(directory / "empty")]
        tried = subprocess.run(empty, capture_output=True, text=True, check=False)
        if tried.returncode != 0:
            pytest.skip(f"{compiler} cannot build with {' '.join(flags)}: {tried.stderr.strip().splitlines()[-1]}")
        program = directory / "check_kernels"
        sources = [str(Path(__file__).parent / "check_kernels.c"), *sorted(str(path) for path in KERNELS.glob("*.c"))]
        options = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-pthread", f"-I{KERNELS}"]
        subprocess.run([compiler, *options, *flags, *sources, "-o", str(program), "-lm"], check=True)
        return program

    return make


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if load() is None:
        pytest.skip("the native kernels are not built")
    path = tmp_path_factory.mktemp("cases") / "cases"
    write_cases(path, SEED, n_products=120, n_blocks=60)
    return path


@pytest.fixture(scope="session")
def judge(cases: Path) -> Callable[..., list[str]]:
    """`judge(*command)` runs the command over the cases and gives the names of the kernels that passed them all."""

    def run(*command: str) -> list[str]:
        done = subprocess.run([*command, str(cases)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"cases of seed {SEED}: {done.stdout}{done.stderr}"
        lines = [line.split() for line in done.stdout.splitlines()]
        assert all(int(n_judged) > 100_000 for _, n_judged, _ in lines)
        return [name for name, _, _ in lines]

    return run

"""llama.cpp, built for this machine from the source package of llama-cpp-python, and its own benchmark.

    python benchmarks/llama_cpp.py

Builds llama-bench and llama-perplexity once (some ten minutes on two cores) and prints where they are: in
.bench/llama.cpp, or in the directory that TPID_LLAMA_CPP names; a `bin` with both that lies there already is used as
it is. Needs cmake, a C++ compiler, and pip with access to a package index.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

VERSION = "0.3.36"  # of llama-cpp-python
DIRECTORY_VARIABLE = "TPID_LLAMA_CPP"
DEFAULT_DIRECTORY = Path(".bench/llama.cpp")
TOOLS = ("llama-bench", "llama-perplexity")

_CMAKE_OPTIONS = (
    "CMAKE_BUILD_TYPE=Release",
    "BUILD_SHARED_LIBS=OFF",
    "GGML_NATIVE=ON",
    "LLAMA_BUILD_TESTS=OFF",
    "LLAMA_BUILD_EXAMPLES=OFF",
    "LLAMA_BUILD_SERVER=OFF",
    "LLAMA_OPENSSL=OFF",
)


class BuildError(Exception):
    """llama.cpp cannot be built here; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Test:
    """What is measured: so many tokens after `depth` that are in the KV cache already."""

    kind: str  # "decode": one by one; "prefill": at once
    tokens: int
    depth: int = 0


# Ways to run it that are faster here and slower there: the fastest is what we are compared with.
VARIANTS: tuple[tuple[str, ...], ...] = tuple(
    ("-fa", flash, "-lm", load) for flash in ("on", "off") for load in ("mmap", "none")
)


def tokens_s(gguf: Path, test: Test, cores: Collection[int], variant: Sequence[str]) -> float:
    """Tokens a second by llama-bench's own clock, without start, load and its warm-up; one thread a core."""
    command = [str(tool("llama-bench")), "-m", str(gguf), "-t", str(len(cores)), "-r", "1", "-o", "json", *variant]
    command += ["-d", str(test.depth)]
    command += ["-p", "0", "-n", str(test.tokens)] if test.kind == "decode" else ["-n", "0", "-p", str(test.tokens)]
    done = subprocess.run(
        ["taskset", "--cpu-list", ",".join(map(str, sorted(cores))), *command],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"llama-bench failed on {gguf}: {_last_line(done.stderr)}")
    (result,) = json.loads(done.stdout)
    return float(result["avg_ts"])


def fastest_variant(gguf: Path, test: Test, cores: Collection[int], tries: int) -> tuple[str, ...]:
    """Of `VARIANTS`, by the best of `tries` interleaved runs of each."""
    best = dict.fromkeys(VARIANTS, 0.0)
    for _ in range(tries):
        for variant in VARIANTS:
            best[variant] = max(best[variant], tokens_s(gguf, test, cores, variant))
    return max(best, key=lambda variant: best[variant])


def tool(name: str) -> Path:
    """Its path; builds where it has to. Raises BuildError."""
    directory = Path(os.environ.get(DIRECTORY_VARIABLE, DEFAULT_DIRECTORY)).absolute()
    path = directory / "bin" / name
    if not path.exists():
        _build(directory)
    return path


def _build(directory: Path) -> None:
    for needed, why in (("cmake", "CMake"), ("c++", "a C++ compiler"), ("taskset", "taskset of util-linux")):
        if shutil.which(needed) is None:
            raise BuildError(f"To build llama.cpp, {why} is needed: install it, then try again.")
    directory.mkdir(parents=True, exist_ok=True)
    source = _source(directory)
    build = directory / "build"
    print(f"building llama.cpp in {build}, once ...", file=sys.stderr, flush=True)
    options = [f"-D{option}" for option in _CMAKE_OPTIONS]
    log = directory / "build.log"
    with log.open("w") as output:
        for command in (
            ["cmake", "-S", str(source), "-B", str(build), *options],
            ["cmake", "--build", str(build), "--parallel", str(os.cpu_count() or 1), "--target", *TOOLS],
        ):
            if subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode != 0:
                raise BuildError(f"llama.cpp does not build: {_last_line(log.read_text())} All of it is in {log}.")
    (directory / "bin").mkdir(exist_ok=True)
    for name in TOOLS:
        shutil.copy2(build / "bin" / name, directory / "bin" / name)


def _source(directory: Path) -> Path:
    """llama.cpp's tree out of the source package, which brings it along."""
    source = directory / f"llama_cpp_python-{VERSION}" / "vendor" / "llama.cpp"
    if source.exists():
        return source
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--no-binary=llama-cpp-python", "--dest", str(directory), f"llama-cpp-python=={VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    archive = directory / f"llama_cpp_python-{VERSION}.tar.gz"
    if done.returncode != 0 or not archive.exists():
        raise BuildError(f"The source of llama-cpp-python {VERSION} cannot be fetched: {_last_line(done.stderr)}")
    with tarfile.open(archive) as tar:
        tar.extractall(directory, filter="data")
    archive.unlink()
    return source


def _last_line(text: str) -> str:
    return (text.strip() or "no reason was given.").splitlines()[-1]


if __name__ == "__main__":
    try:
        print(*(tool(name) for name in TOOLS), sep="\n")
    except BuildError as error:
        sys.exit(str(error))

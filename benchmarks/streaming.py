"""Models larger than memory: budgets and policies, each run in a process of its own inside a memory cgroup. As root.

    python benchmarks/streaming.py --part budgets     Llama-3-8B shape, w4: ours at five budgets, beside the bound
    python benchmarks/streaming.py --part policies    the same beside the paper's window and mapped files
    python benchmarks/streaming.py --part f16         TinyLlama shape, f16: also beside Accelerate's disk offload
    python benchmarks/streaming.py --part seventy     70B shapes: eight daemons with 1 GB each; one with 3 GB

    [--quick] [--json] [--rows PATTERN] [--layers N] [--tokens N] [--threads N]

Before each run the pages of the model's files are dropped from the page cache (posix_fadvise, DONTNEED). The peak is
the cgroup's own, page cache included. The bound is the larger of two times: the bytes that stream, at the bandwidth of
direct reads that have the disk for themselves (of the same ranges, in pauses between tokens; or fio's, if higher), and
the TPOT with all weights in memory.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from direct_bandwidth import around, direct_bytes_s, fio_bytes_s, weight_files
from make_model import DEFAULT_DIRECTORY, make_model
from memory_cgroup import NoCgroupError, memory_cgroup
from tpid.errors import TpidError
from tpid.memory.read_speed import whole_file
from tpid.model.weights import Format
from tpid.pack.reader import ByteRange

GB = 10**9
TOKENS, QUICK_TOKENS = 12, 4
PAUSES = 3
RESIDENT_GB = 8.0
END_TIMEOUT_S = 60.0
POLICIES = ("ours", "window-2", "window-4", "mmap")
BENCHMARKS = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Row:
    part: str
    shape: str
    format: Format
    policy: str
    budget_gb: float

    @property
    def name(self) -> str:
        return f"{self.part} {self.shape} {self.format} {self.budget_gb:g}GB {self.policy}"

    @property
    def context_tokens(self) -> int:
        return 512 if self.budget_gb < 1 else 4096


@dataclass(frozen=True, slots=True)
class Result:
    """`error` instead of the rest where a run gave none."""

    row: str
    policy: str
    weights: str
    budget_bytes: int
    peak_bytes: int = 0
    tpot_s: float = 0.0
    ttft_s: float = 0.0
    read_bytes: float = 0.0  # from disk, a token
    stall_s: float = 0.0
    direct_bytes_s: float = 0.0  # by our reader, in the pauses of this run
    fio_bytes_s: float | None = None
    bound_s: float = 0.0
    error: str = ""


def rows_of(part: str) -> list[Row]:
    # All-resident first: the bound of the others needs it.
    budgets = (RESIDENT_GB, 4.0, 2.0, 1.0, 0.6)
    if part == "budgets":
        return [Row(part, "llama-3-8b", Format.W4, "ours", budget) for budget in budgets]
    if part == "policies":
        return [Row(part, "llama-3-8b", Format.W4, policy, budget) for budget in budgets for policy in POLICIES]
    policies = (*POLICIES, "accelerate")
    return [
        Row(part, "tinyllama-1.1b", Format.F16, policy, budget) for budget in (4.0, 2.0, 1.5) for policy in policies
    ]


def measure(row: Row, pack: Path, arguments: argparse.Namespace, resident_s: float) -> Result:
    """`resident_s`: TPOT with all weights in memory, 0 where it is not known."""
    budget = int(row.budget_gb * GB)
    weights = str(row.format)
    files = weight_files(pack)
    if row.policy == "accelerate":
        pack, weights = _checkpoint(row.shape, arguments.layers), "f16, torch"
        files = weight_files(pack)
    script = "accelerate_offload.py" if row.policy == "accelerate" else "streamed.py"
    command = [sys.executable, str(BENCHMARKS / script), str(pack), "--memory", str(budget)]
    command += ["--threads", str(arguments.threads), "--tokens", str(arguments.tokens)]
    if row.policy != "accelerate":
        command += ["--policy", row.policy, "--context", str(arguments.context or row.context_tokens)]
        command += ["--pauses", str(PAUSES), "--prompt", str(arguments.prompt)]
    fio = fio_bytes_s(files)
    _drop_pages(pack)
    with memory_cgroup(budget) as group:
        found, direct, stderr = _run(group.command(command), files)
        peak, killed = group.peak_bytes, group.killed
    if found is None:
        lines = stderr.strip().splitlines()
        error = "killed: out of memory" if killed else (lines or ["it failed without a word"])[-1]
        return Result(row.name, row.policy, weights, budget, peak, error=error)
    return Result(
        row.name,
        row.policy,
        weights,
        budget,
        peak,
        found["tpot_s"],
        found["ttft_s"],
        found["read_bytes"],
        found["stall_s"],
        direct,
        fio,
        max(found["streamed_bytes"] / max(direct, fio or 0.0), resident_s),
    )


def _run(command: Sequence[str], files: Sequence[Path]) -> tuple[dict[str, Any] | None, float, str]:
    """What it found, None where it failed; the disk's bandwidth in its pauses, or afterwards; its stderr."""
    found, readings = None, []
    chunks = around(map(whole_file, files))
    with (
        tempfile.TemporaryFile("w+") as stderr,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        for line in process.stdout or ():
            told = json.loads(line)
            if "ranges" in told:
                if told["ranges"]:
                    chunks = around(ByteRange(Path(path), offset, size) for path, offset, size in told["ranges"])
            elif "pause" in told and process.stdin is not None:
                readings.append(direct_bytes_s(chunks))
                process.stdin.write("\n")
                process.stdin.flush()
            else:
                found = told
        process.wait(END_TIMEOUT_S)
        if not readings:
            readings.append(direct_bytes_s(chunks))
        stderr.seek(0)
        return found if process.returncode == 0 else None, statistics.median(readings), stderr.read()


def measure_all(rows: Sequence[Row], arguments: argparse.Namespace) -> Iterator[tuple[Row, Result]]:
    resident_s: dict[str, float] = {}
    for row in rows:
        pack = _pack(row, arguments.layers)
        result = measure(row, pack, arguments, resident_s.get(row.shape, 0.0))
        if row.policy == "ours" and not result.error and result.read_bytes < 1 << 20:
            resident_s.setdefault(row.shape, result.tpot_s)
        yield row, result


def print_tables(rows: Sequence[Row], arguments: argparse.Namespace) -> list[Result]:
    results, ours = [], {}
    if not arguments.json:
        print(
            f"{'budget':>6} {'policy':<10} {'weights':<10} {'TPOT':>8} {'/bound':>6} {'/ours':>6} {'TTFT':>7} "
            f"{'peak':>6} {'MB/token':>8} {'GB/s':>5} {'direct':>6} {'fio':>5} {'stall':>8}"
        )
    for row, result in measure_all(rows, arguments):
        results.append(result)
        if row.policy == "ours" and not result.error:
            ours[row.budget_gb] = result.tpot_s
        if not arguments.json:
            print(_line(row, result, ours.get(row.budget_gb)), flush=True)
    return results


def _line(row: Row, result: Result, ours_s: float | None) -> str:
    """Milliseconds, MB, GB and GB/s."""
    head = f"{row.budget_gb:6g} {row.policy:<10} {result.weights:<10}"
    if result.error:
        return f"{head} {result.error} (peak {result.peak_bytes / GB:.2f} GB)"
    beside = f"{result.tpot_s / ours_s:6.2f}" if ours_s else f"{'':>6}"
    fio = f"{result.fio_bytes_s / GB:5.2f}" if result.fio_bytes_s else f"{'':>5}"
    bound = f"{result.tpot_s / result.bound_s:6.2f}" if result.bound_s else f"{'':>6}"
    return (
        f"{head} {result.tpot_s * 1e3:8.1f} {bound} {beside} {result.ttft_s:7.2f} {result.peak_bytes / GB:6.3f} "
        f"{result.read_bytes / 1e6:8.0f} {result.read_bytes / result.tpot_s / GB:5.2f} "
        f"{result.direct_bytes_s / GB:6.2f} {fio} {result.stall_s * 1e3:8.1f}"
    )


def _pack(row: Row, layers: int | None) -> Path:
    path = DEFAULT_DIRECTORY / f"{row.shape}{f'-{layers}l' if layers else ''}-{row.format}"
    if not path.exists():
        print(f"making {path} ...", file=sys.stderr, flush=True)
        make_model(row.shape, row.format, path, layers=layers)
    return path.absolute()


def _checkpoint(shape: str, layers: int | None) -> Path:
    """For transformers, made in a process of its own: torch would stay in this one."""
    path = DEFAULT_DIRECTORY.absolute().parent / "checkpoints" / f"{shape}{f'-{layers}l' if layers else ''}-f16"
    if not path.exists():
        print(f"making {path} ...", file=sys.stderr, flush=True)
        command = [sys.executable, str(BENCHMARKS / "accelerate_offload.py"), str(path), "--make", shape]
        subprocess.run([*command, *(["--layers", str(layers)] if layers else [])], check=True)
    return path


def _drop_pages(directory: Path) -> None:
    """Out of the page cache, so that every run begins with the disk."""
    for path in directory.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("budgets", "policies", "f16", "seventy"), default="budgets")
    parser.add_argument("--rows", default="*", help="a pattern, such as '* 1GB *'; --rows list shows all")
    parser.add_argument("--quick", action="store_true", help="few tokens; the numbers swing more")
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of a table")
    parser.add_argument("--tokens", type=int, help=f"of each run, {TOKENS} by default; medians are over them")
    parser.add_argument("--layers", type=int, help="cut the shape to so many, to see that it works")
    parser.add_argument("--context", type=int, help="tokens; by default 4096, and 512 below 1 GB")
    parser.add_argument(
        "--prompt", type=int, default=64, help="tokens; 0: the longest pass, which the peak is planned for"
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    arguments.tokens = arguments.tokens or (QUICK_TOKENS if arguments.quick else TOKENS)
    try:
        if arguments.part == "seventy":
            from seventy import print_seventy  # noqa: PLC0415

            results = print_seventy(arguments)
        else:
            rows = [row for row in rows_of(arguments.part) if fnmatch(row.name, arguments.rows)]
            if arguments.rows == "list":
                print(*(row.name for row in rows_of(arguments.part)), sep="\n")
                return 0
            results = print_tables(rows, arguments)
    except (NoCgroupError, TpidError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        print(f"streaming: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps([asdict(result) for result in results], indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())

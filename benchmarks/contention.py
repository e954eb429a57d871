"""How much slower the disk is beside processes that compute, and beside ones that read memory: what overlap may cost.

    python benchmarks/contention.py PACK [--quick] [--json]

Direct reads of the pack, as the prefetcher's, while nothing else runs, and while one or two processes count, or sum an
array that no cache holds. Ratios are medians over interleaved rounds.
"""

import argparse
import contextlib
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from direct_bandwidth import around, direct_bytes_s, weight_files
from tpid.memory.read_speed import whole_file

SUMMED_BYTES = 256 << 20
SETTLE_S = 0.5  # until the processes have their memory
ROUNDS, QUICK_ROUNDS = 7, 3


def count_on() -> None:
    number = 0
    while True:
        number += 1


def sum_on() -> None:
    numbers = np.ones(SUMMED_BYTES // 8)
    while True:
        numbers.sum()


BESIDE: dict[str, tuple[Callable[[], None], ...]] = {
    "nothing": (),
    "one that counts": (count_on,),
    "two that count": (count_on, count_on),
    "one that sums": (sum_on,),
    "two that sum": (sum_on, sum_on),
}


@dataclass(frozen=True, slots=True)
class Row:
    beside: str
    bytes_s: float
    of_alone: float
    least: float
    most: float

    @classmethod
    def of(cls, beside: str, found: Sequence[float], alone: Sequence[float]) -> "Row":
        """Of rates round by round."""
        ratios = [rate / reference for rate, reference in zip(found, alone, strict=True)]
        return cls(beside, statistics.median(found), statistics.median(ratios), min(ratios), max(ratios))


@contextlib.contextmanager
def running(targets: tuple[Callable[[], None], ...]) -> Iterator[None]:
    processes = [multiprocessing.Process(target=target, daemon=True) for target in targets]
    for process in processes:
        process.start()
    time.sleep(SETTLE_S)
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    files = weight_files(arguments.pack)
    if not files:
        sys.exit(f"{arguments.pack} holds no weights; benchmarks/make_model.py makes a pack.")
    chunks = around(map(whole_file, files))
    rates: dict[str, list[float]] = {name: [] for name in BESIDE}
    for _ in range(QUICK_ROUNDS if arguments.quick else ROUNDS):
        for name, targets in BESIDE.items():
            with running(targets):
                rates[name].append(direct_bytes_s(chunks))
    rows = [Row.of(name, found, rates["nothing"]) for name, found in rates.items()]
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    print(f"{'beside':<16} {'GB/s':>5}  of alone")
    for row in rows:
        print(f"{row.beside:<16} {row.bytes_s / 1e9:>5.2f}  {row.of_alone:.2f} ({row.least:.2f} … {row.most:.2f})")


if __name__ == "__main__":
    main()

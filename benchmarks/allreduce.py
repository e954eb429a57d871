"""Latency of the star allreduce on loopback, beside the same exchange over blocking sockets and gloo's allreduce.

    python benchmarks/allreduce.py [--quick] [--json] [--pin] [--tls]

With `--tls`, the star in plain beside the same star through TLS 1.3 instead, and what TLS adds.

Each way has processes of its own, one a rank; what they do is in `benchmarks/exchanges.py`. All move fp32. Rounds of
the three are interleaved, because the machine's mood changes within a run: compare within a row, and trust the median
of the rounds' ratios more than the quotient of the medians.

Where the system may place the processes, it puts those of the blocking exchange on one core: they never run at the same
time, and waking each other there is cheapest. Ranks that compute between exchanges have a core each: `--pin`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection as Pipe
from typing import TypeAlias

from exchanges import serve

PAYLOADS_BYTES = (4096, 8192, 16384, 32768, 65536, 131072)
RANKS = (2, 4)
WAYS = ("ours", "blocking", "gloo")
TLS_WAYS = ("ours", "tls")
ANSWER_TIMEOUT_S = 120.0

Round: TypeAlias = dict[str, float]  # seconds of an exchange, by way


@dataclass(frozen=True, slots=True)
class Effort:
    rounds: int
    steps: int  # exchanges a round and way


@dataclass(frozen=True, slots=True)
class Row:
    ranks: int
    payload_bytes: int
    ours_us: float  # medians of an exchange
    blocking_us: float
    gloo_us: float
    to_blocking: float  # median over rounds of ours / blocking
    to_blocking_range: tuple[float, float]
    to_gloo: float
    to_gloo_range: tuple[float, float]

    def __str__(self) -> str:
        ratios = (
            f"{middle:6.2f} ({least:.2f} … {most:.2f})"
            for middle, (least, most) in (
                (self.to_blocking, self.to_blocking_range),
                (self.to_gloo, self.to_gloo_range),
            )
        )
        times = f"{self.ours_us:9.1f} {self.blocking_us:9.1f} {self.gloo_us:9.1f}"
        return f"{self.ranks:5} {self.payload_bytes:8} {times}  {'  '.join(ratios)}"


@dataclass(frozen=True, slots=True)
class TlsRow:
    ranks: int
    payload_bytes: int
    plain_us: float  # medians of an exchange
    tls_us: float
    more_us: float  # median over rounds of tls - plain
    more_us_range: tuple[float, float]

    def __str__(self) -> str:
        least, most = self.more_us_range
        times = f"{self.plain_us:9.1f} {self.tls_us:9.1f}"
        return f"{self.ranks:5} {self.payload_bytes:8} {times}  {self.more_us:6.1f} ({least:.1f} … {most:.1f})"


class Group:
    """The processes of one way."""

    def __init__(self, way: str, n_ranks: int, pin: bool) -> None:
        context = multiprocessing.get_context("spawn")
        cores = sorted(os.sched_getaffinity(0))
        self._pipes: list[Pipe] = []
        self._processes = []
        for rank in range(n_ranks):
            ours, theirs = context.Pipe()
            core = cores[rank % len(cores)] if pin else None
            process = context.Process(target=serve, args=(way, rank, n_ranks, core, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        self._pipes[0].send(0)
        port = _answer(self._pipes[0])
        for pipe in self._pipes[1:]:
            pipe.send(port)
        for pipe in self._pipes[1:]:
            _answer(pipe)

    def round_s(self, payload_bytes: int, steps: int) -> float:
        """Median of the seconds that an exchange takes at rank 0."""
        for pipe in self._pipes:  # rank 0 first: the others send at once
            pipe.send((payload_bytes, steps))
            _answer(pipe)
        times_s = [_answer(pipe) for pipe in self._pipes]
        return statistics.median(times_s[0])

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join()


def _answer(pipe: Pipe) -> object:
    if not pipe.poll(ANSWER_TIMEOUT_S):
        raise TimeoutError(f"A rank has not answered for {ANSWER_TIMEOUT_S:g} s.")
    return pipe.recv()


def measure(
    n_ranks: int, ways: Sequence[str], effort: Effort, pin: bool, show: Callable[[int, int, list[Round]], None]
) -> None:
    groups = {way: Group(way, n_ranks, pin) for way in ways}
    for payload_bytes in PAYLOADS_BYTES:
        rounds = []
        for number in range(effort.rounds + 1):
            order = list(ways) if number % 2 else list(reversed(ways))
            rounds.append({way: groups[way].round_s(payload_bytes, effort.steps) for way in order})
        show(n_ranks, payload_bytes, rounds[1:])  # the first warms up
    for group in groups.values():
        group.close()


def _row(n_ranks: int, payload_bytes: int, rounds: list[Round]) -> Row:
    us = {way: statistics.median(times[way] for times in rounds) * 1e6 for way in WAYS}
    ratios = {way: sorted(times["ours"] / times[way] for times in rounds) for way in ("blocking", "gloo")}
    return Row(
        n_ranks, payload_bytes, us["ours"], us["blocking"], us["gloo"],
        statistics.median(ratios["blocking"]), (ratios["blocking"][0], ratios["blocking"][-1]),
        statistics.median(ratios["gloo"]), (ratios["gloo"][0], ratios["gloo"][-1]),
    )  # fmt: skip


def _tls_row(n_ranks: int, payload_bytes: int, rounds: list[Round]) -> TlsRow:
    plain_us, tls_us = (statistics.median(times[way] for times in rounds) * 1e6 for way in TLS_WAYS)
    more_us = sorted((times["tls"] - times["ours"]) * 1e6 for times in rounds)
    return TlsRow(n_ranks, payload_bytes, plain_us, tls_us, statistics.median(more_us), (more_us[0], more_us[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of a table")
    parser.add_argument("--quick", action="store_true", help="a few seconds; the numbers swing more")
    parser.add_argument("--pin", action="store_true", help="rank r on core r, as ranks that compute have one each")
    parser.add_argument("--tls", action="store_true", help="what TLS adds to the star")
    arguments = parser.parse_args()
    effort = Effort(rounds=7, steps=100) if arguments.quick else Effort(rounds=21, steps=200)
    if not arguments.json:
        if arguments.tls:
            print("                      microseconds    more over TLS")
            print("ranks    bytes     plain       TLS  median (range)")
        else:
            print("                      microseconds               ours / blocking        ours / gloo")
            print("ranks    bytes      ours  blocking      gloo  median (range)         median (range)")
    rows: list[Row | TlsRow] = []

    def show(n_ranks: int, payload_bytes: int, rounds: list[Round]) -> None:
        rows.append((_tls_row if arguments.tls else _row)(n_ranks, payload_bytes, rounds))
        if not arguments.json:
            print(rows[-1], flush=True)

    for n_ranks in RANKS:
        measure(n_ranks, TLS_WAYS if arguments.tls else WAYS, effort, arguments.pin, show)
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))


if __name__ == "__main__":
    main()

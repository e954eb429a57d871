"""What a token costs beside its kernels: microseconds a decode step spends in Python, the loop and the network.

    python benchmarks/loop.py [--quick] [--json] [--layers 22] [--hidden 2048]

The engine's own walk, driver and allreduce, at 1 rank and at 2 (processes with a core each, on loopback), around a
backend that computes nothing. `warm`: it returns at once. `cold`: it first reads so much memory that the caches hold
none of the loop's code and data any more, as real weights do; that time is taken off. At 2 ranks what is left contains
the wait for the other rank: its half of the exchange, and where two equal reads do not take equally long.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any

import numpy as np
import uvloop

from exchanges import Ours
from tpid.comm.allreduce import Allreduce, Alone
from tpid.compute.backend import Output
from tpid.compute.forward import forward
from tpid.engine.compute_calls import ComputeCalls
from tpid.engine.passes import drive
from tpid.model.batch import Segment
from tpid.model.weights import F32

COLD_BYTES = 4 * 2**20  # a block: twice the L2 cache of a core of today
ROUNDS, QUICK_ROUNDS = 21, 5
TOKENS = 20  # a round


@dataclass(frozen=True, slots=True)
class Shape:
    layers: int
    hidden: int


@dataclass(frozen=True, slots=True)
class Row:
    ranks: int
    caches: str
    us_a_token: float  # median of the rounds
    lowest: float
    highest: float
    us_a_step: float  # by the steps of a token: two a layer


class Nothing:
    """A backend that computes nothing, and the weights that it does it with."""

    output = Output()

    def __init__(self, hidden: int, read_bytes: int) -> None:
        self.read_s = 0.0
        self._memory = np.ones(read_bytes // 8, np.int64)
        self._partial = np.zeros((1, hidden), np.float32)

    def prepare(self, block: object) -> "Nothing":
        return self

    def begin(self, segments: object) -> None:
        return None

    def attention(self, weights: object, x: F32) -> F32:
        if self._memory.size:
            begin_s = time.perf_counter()
            self._memory.sum()
            self.read_s += time.perf_counter() - begin_s
        return self._partial

    ffn = attention


class AllResident:
    """Weights that are there, as tpid.memory.weights leases them."""

    streams = False
    output = Output()

    def lease(self, index: int) -> "AllResident":
        return self

    async def __aenter__(self) -> Callable[[], "AllResident"]:
        return self.get

    async def __aexit__(self, *error: object) -> None:
        return None

    def get(self) -> "AllResident":
        return self


RESIDENT: Any = AllResident()


async def us_a_token(shape: Shape, star: Allreduce, read_bytes: int) -> float:
    """Of the pass that was begun: `TOKENS` decode steps, one behind the other as if they were further layers."""
    backend, calls = Nothing(shape.hidden, read_bytes), ComputeCalls()
    hidden = np.zeros((1, shape.hidden), np.float32)
    begin_s = time.perf_counter()
    walk = forward(backend, TOKENS * shape.layers, hidden, (Segment(0, 0, 1),))
    await drive(walk, RESIDENT, star, calls, n_blocks=2 * TOKENS * shape.layers, n_tokens=1)
    took_s = time.perf_counter() - begin_s - backend.read_s
    calls.close()
    return took_s / TOKENS * 1e6


def alone(shape: Shape, rounds: int, read_bytes: int) -> list[float]:
    async def run() -> list[float]:
        star = Alone(shape.hidden)
        results = []
        for number in range(1 + rounds):
            star.begin(number, 1)
            results.append(await us_a_token(shape, star, read_bytes))
        return results[1:]  # the first warms up

    return uvloop.run(run())


def two(shape: Shape, rounds: int, read_bytes: int) -> list[float]:
    context = multiprocessing.get_context("spawn")
    cores = sorted(os.sched_getaffinity(0))
    pipes, processes = [], []
    for rank in range(2):
        ours, theirs = context.Pipe()
        core = cores[rank % len(cores)]
        process = context.Process(target=_serve, args=(rank, core, shape, read_bytes, theirs), daemon=True)
        process.start()
        pipes.append(ours)
        processes.append(process)
    pipes[0].send(0)
    pipes[1].send(pipes[0].recv())
    pipes[1].recv()
    results = []
    for _ in range(1 + rounds):
        for pipe in pipes:  # rank 0 first: the other sends at once
            pipe.send("begin")
            pipe.recv()
        of_hub, _of_leaf = [pipe.recv() for pipe in pipes]
        results.append(of_hub)
    for pipe in pipes:
        pipe.send(None)
    for process in processes:
        process.join()
    return results[1:]


def _serve(rank: int, core: int, shape: Shape, read_bytes: int, pipe: Pipe) -> None:
    os.sched_setaffinity(0, {core})

    async def run() -> None:
        exchange = Ours()
        pipe.send(await exchange.join(rank, 2, pipe.recv()))
        while await asyncio.to_thread(pipe.recv) is not None:  # heartbeats go on meanwhile
            await exchange.begin(shape.hidden)
            pipe.send("ready")
            pipe.send(await us_a_token(shape, exchange.star, read_bytes))
        await exchange.leave()

    uvloop.run(run())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of a table")
    parser.add_argument("--quick", action="store_true", help="few rounds; the numbers swing more")
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--hidden", type=int, default=2048)
    arguments = parser.parse_args()
    shape = Shape(arguments.layers, arguments.hidden)
    rounds = QUICK_ROUNDS if arguments.quick else ROUNDS
    ways: dict[int, Callable[[Shape, int, int], list[float]]] = {1: alone, 2: two}
    rows = []
    if not arguments.json:
        print("ranks  caches  us a token  (range)            us a step")
    for n_ranks, way in ways.items():
        for caches, read_bytes in (("warm", 0), ("cold", COLD_BYTES)):
            us = way(shape, rounds, read_bytes)
            middle = statistics.median(us)
            rows.append(Row(n_ranks, caches, middle, min(us), max(us), middle / (2 * shape.layers)))
            if not arguments.json:
                row = rows[-1]
                span = f"({row.lowest:.0f} … {row.highest:.0f})"
                print(f"{n_ranks:5}  {caches:6}  {row.us_a_token:10.0f}  {span:18} {row.us_a_step:9.1f}", flush=True)
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))


if __name__ == "__main__":
    main()

"""Ways to sum partials on a home of namespaces, beside what the links allow and gloo's ring; as root.

    python benchmarks/direct.py [--quick] [--json] [--hosts N ...] [--delays MS ...] [--hidden N ...]

Each row is one number of hosts, one delay a link (two hosts have two links between them: a round trip takes four) and
one payload, fp32 partials of one token. The three take turns; a time is the median over all ranks' steps, without
compute. A bound is what the links take, and what the way itself costs where they take nothing:

    star     the round trip, measured in the same run; the bytes on the coordinator's link, both ways; its time at 0 ms
    direct   half of that round trip; the bytes on each link, in and out at once; its time at 0 ms
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from homelab.home import Home
from homelab.host import Host
from homelab.layout import HomeLayout, HostLayout, LinkLayout
from homelab.programs import LabError

BENCHMARKS = Path(__file__).parent
WAYS = {"star": 0, "direct": 1}
FP32_BYTES = 4
N_TRIPS = 40

Ranks = Sequence["subprocess.Popen[Any]"]
Times = dict[str, float]  # milliseconds by way


@dataclass(frozen=True, slots=True)
class Row:
    hosts: int
    delay_ms: float
    payload_bytes: int
    round_trip_ms: float
    star_ms: float
    direct_ms: float
    gloo_ms: float
    star_to_bound: float
    direct_to_bound: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--delays", type=float, nargs="+", default=[0.2, 1.0, 5.0], metavar="MS")
    parser.add_argument("--hidden", type=int, nargs="+", default=[2048, 8192])
    parser.add_argument("--rate-mbit", type=float, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--quick", action="store_true", help="two rounds of 30 steps, 2048 values")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.steps, arguments.hidden = 2, 30, [2048]
    rows: list[Row] = []
    try:
        for hosts in arguments.hosts:
            rows += rows_of(hosts, arguments)
    except LabError as error:
        print(f"direct: {error}", file=sys.stderr)
        return 1
    print(json.dumps([asdict(row) for row in rows]) if arguments.json else _table(rows))
    return 0


def rows_of(hosts: int, arguments: argparse.Namespace) -> list[Row]:
    """Raises LabError."""
    no_delay = LinkLayout(delay_ms=0, rate_mbit=0)
    _, own_ms = measure(hosts, no_delay, arguments)
    rows = []
    for delay_ms in arguments.delays:
        link = LinkLayout(delay_ms=delay_ms, rate_mbit=arguments.rate_mbit)
        round_trip_ms, times_ms = measure(hosts, link, arguments)
        for hidden, times in times_ms.items():
            payload_bytes = FP32_BYTES * hidden
            wire_ms = 8e-3 * payload_bytes * (hosts - 1) / arguments.rate_mbit
            star_bound_ms = round_trip_ms + 2 * wire_ms + own_ms[hidden]["star"]
            direct_bound_ms = round_trip_ms / 2 + wire_ms + own_ms[hidden]["direct"]
            rows.append(
                Row(
                    hosts, delay_ms, payload_bytes, round_trip_ms, times["star"], times["direct"], times["gloo"],
                    times["star"] / star_bound_ms, times["direct"] / direct_bound_ms,
                )
            )  # fmt: skip
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


def measure(hosts: int, link: LinkLayout, arguments: argparse.Namespace) -> tuple[float, dict[int, Times]]:
    """The round trip in ms, and the times of each hidden size. Raises LabError."""
    with Home(HomeLayout(hosts=(HostLayout(count=hosts, links=(link,)),))) as home:
        round_trip_ms = _round_trip_ms(home.hosts[0], home.hosts[1])
        addresses = ",".join(host.addresses[0] for host in home.hosts)
        with (
            _started(home.hosts, "homelab.exchanger", addresses) as ours,
            _started(home.hosts, "homelab.ring", addresses) as gloo,
        ):
            return round_trip_ms, {hidden: _times(ours, gloo, hidden, arguments) for hidden in arguments.hidden}


def _times(ours: Ranks, gloo: Ranks, hidden: int, arguments: argparse.Namespace) -> Times:
    seconds: dict[str, list[float]] = {way: [] for way in (*WAYS, "gloo")}
    _tell(gloo, f"begin {hidden} 1")
    for _ in range(arguments.rounds):
        for way, direct_tokens in WAYS.items():
            _tell(ours, f"begin {direct_tokens} {hidden} 1")
            seconds[way] += _run(ours, arguments.steps)
        seconds["gloo"] += _run(gloo, arguments.steps)
    return {way: 1e3 * statistics.median(values) for way, values in seconds.items()}


def _run(ranks: Ranks, steps: int) -> list[float]:
    """The seconds of all ranks' steps, without the first fifth."""
    return [took_s for answer in _tell(ranks, f"run {steps}") for took_s in json.loads(answer)[steps // 5 :]]


def _round_trip_ms(one: Host, other: Host) -> float:
    """Of a small datagram there and back, in the median. Raises LabError."""
    probe = str(BENCHMARKS / "homelab" / "probe.py")
    address = other.addresses[0]
    echo = other.popen(sys.executable, probe, "echo", address, stdout=subprocess.PIPE, text=True)
    try:
        _answers([echo])
        trips = one.popen(
            sys.executable, probe, "trips", address, str(N_TRIPS), "0.01", stdout=subprocess.PIPE, text=True
        )
        return statistics.median(ms for ms in json.loads(_answers([trips])[0]) if ms is not None)
    finally:
        echo.kill()
        echo.wait()


@contextmanager
def _started(hosts: Sequence[Host], module: str, addresses: str) -> Iterator[Ranks]:
    """A rank on each host, all connected. Raises LabError."""
    ranks = [
        host.popen(
            sys.executable, "-m", module, str(rank), addresses,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=BENCHMARKS,
        )
        for rank, host in enumerate(hosts)
    ]  # fmt: skip
    try:
        _answers(ranks)
        yield ranks
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def _tell(ranks: Ranks, order: str) -> list[str]:
    for rank in ranks:
        _pipe(rank.stdin).write(order + "\n")
        _pipe(rank.stdin).flush()
    return _answers(ranks)


def _answers(ranks: Ranks) -> list[str]:
    """A line of each. Raises LabError."""
    answers = [_pipe(rank.stdout).readline() for rank in ranks]
    if not all(answers):
        raise LabError("a rank has ended")
    return answers


def _pipe(pipe: IO[Any] | None) -> IO[Any]:
    assert pipe is not None
    return pipe


def _table(rows: Sequence[Row]) -> str:
    lines = [
        "| hosts | a link | payload | round trip | star | of its bound | direct | of its bound | gloo |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.hosts} | {row.delay_ms:g} ms | {row.payload_bytes / 1024:g} KiB | {row.round_trip_ms:.2f} ms "
        f"| {row.star_ms:.2f} ms | {row.star_to_bound:.2f} | {row.direct_ms:.2f} ms | {row.direct_to_bound:.2f} "
        f"| {row.gloo_ms:.2f} ms |"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

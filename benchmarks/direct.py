"""The star beside the direct exchange on a home of namespaces; as root.

    python benchmarks/direct.py [--quick] [--json]

Each row is one number of hosts and one delay a link (two hosts have two links between them: a round trip takes four),
fp32 partials of one token. The two ways take turns over the same connections; a time is the median over all ranks'
steps, without compute.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from homelab.home import Home
from homelab.layout import HomeLayout, HostLayout, LinkLayout
from homelab.programs import LabError

BENCHMARKS = Path(__file__).parent
DELAYS_MS = (0.0, 0.2, 1.0, 4.0)
WAYS = {"star": 0, "direct": 1}


@dataclass(frozen=True, slots=True)
class Row:
    hosts: int
    delay_ms: float
    star_ms: float
    direct_ms: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--rate-mbit", type=float, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="two rounds of 30 steps")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.steps = 2, 30
    rows: list[Row] = []
    try:
        for hosts in arguments.hosts:
            for delay_ms in DELAYS_MS:
                rows.append(measure(hosts, delay_ms, arguments))
                print(rows[-1], file=sys.stderr, flush=True)
    except LabError as error:
        print(f"direct: {error}", file=sys.stderr)
        return 1
    print(json.dumps([asdict(row) for row in rows]) if arguments.json else _table(rows))
    return 0


def measure(hosts: int, delay_ms: float, arguments: argparse.Namespace) -> Row:
    """Raises LabError."""
    link = LinkLayout(delay_ms=delay_ms, rate_mbit=arguments.rate_mbit if delay_ms else 0)
    with Home(HomeLayout(hosts=(HostLayout(count=hosts, links=(link,)),))) as home:
        addresses = ",".join(host.addresses[0] for host in home.hosts)
        ranks = [
            host.popen(
                sys.executable,
                "-m",
                "homelab.exchanger",
                rank,
                addresses,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=BENCHMARKS,
            )
            for rank, host in enumerate(home.hosts)
        ]
        _answers(ranks)
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(arguments.rounds):
            for way, direct_tokens in WAYS.items():
                _tell(ranks, f"begin {direct_tokens} {arguments.hidden} 1")
                for answer in _tell(ranks, f"run {arguments.steps}"):
                    times[way] += json.loads(answer)[arguments.steps // 5 :]
        for rank in ranks:
            rank.kill()
            rank.wait()
        star_ms, direct_ms = (1e3 * statistics.median(times[way]) for way in WAYS)
        return Row(hosts, delay_ms, star_ms, direct_ms)


def _tell(ranks: Sequence["subprocess.Popen[Any]"], order: str) -> list[str]:
    for rank in ranks:
        _pipe(rank.stdin).write(order + "\n")
        _pipe(rank.stdin).flush()
    return _answers(ranks)


def _answers(ranks: Sequence["subprocess.Popen[Any]"]) -> list[str]:
    """A line of each. Raises LabError."""
    answers = [_pipe(rank.stdout).readline() for rank in ranks]
    if not all(answers):
        raise LabError("a rank has ended")
    return answers


def _pipe(pipe: IO[Any] | None) -> IO[Any]:
    assert pipe is not None
    return pipe


def _table(rows: Sequence[Row]) -> str:
    lines = ["| hosts | a link | star | direct | |", "|---|---|---|---|---|"]
    lines += [
        f"| {row.hosts} | {row.delay_ms:g} ms | {row.star_ms:.2f} ms | {row.direct_ms:.2f} ms "
        f"| {row.star_ms / row.direct_ms:.2f} × |"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

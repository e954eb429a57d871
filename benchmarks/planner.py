"""The planner against reality: homes of unlike devices and links, and three plans in each; as root.

    python benchmarks/planner.py [--quick] [--json] [--home NAME ...] [--model NAME] [--models DIRECTORY]

In each home the daemon tells what its plan promises (`tpictl plan`), then answers with that plan, with an equal split
over all devices, and alone on the user's device, in turns. The model is a pack in the directory: make one by
`python benchmarks/make_model.py tinyllama-1.1b --format w4`. Devices are slow, each kernel call
asleep for most of its time, so all of a home together need less than the machine.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from homelab.home import Home
from homelab.layout import HomeLayout, HostLayout, LinkLayout
from homelab.plan_modes import MODES
from homelab.programs import LabError
from tpictl.client.connection import Client
from tpid.device import Role

MODEL = "tinyllama-1.1b-w4"
MODELS = Path(".bench/models")
SETTLE_S = 4.0  # after an answer: links and speeds are told then


@dataclass(frozen=True, slots=True)
class Result:
    """Of one home; seconds of a token. None: the model does not fit so."""

    home: str
    what: str
    ranks: list[str]  # of the daemon's own plan
    left_out: list[str]
    predicted_s: float
    chosen_s: float
    equal_s: float | None
    alone_s: float | None

    @property
    def error(self) -> float:
        return self.predicted_s / self.chosen_s - 1


def _host(slow: float, *, delay_ms: float = 0.03, rate_mbit: float = 0, count: int = 1, **more: Any) -> HostLayout:
    link = LinkLayout(delay_ms=delay_ms, rate_mbit=rate_mbit)
    return HostLayout(name=more.pop("name", "h"), slow=slow, count=count, links=(link,), **more)


def _home(what: str, user: HostLayout, *helpers: HostLayout) -> HomeLayout:
    named = [helper.model_copy(update={"name": "abcdefgh"[number]}) for number, helper in enumerate(helpers)]
    return HomeLayout(description=what, hosts=(user.model_copy(update={"name": "user", "role": Role.USER}), *named))


HOMES = {
    "one": _home("one device", _host(4)),
    "two": _home("two alike, a quick wire", _host(4), _host(4)),
    "two-near": _home("two alike, 0.3 ms a link", _host(4, delay_ms=0.3), _host(4, delay_ms=0.3)),
    "two-far": _home("two alike, 3 ms a link", _host(4, delay_ms=3), _host(4, delay_ms=3)),
    "quarter": _home("the helper has a quarter of the speed", _host(3), _host(12)),
    "strong-helper": _home("the user has a quarter of the speed", _host(12), _host(3)),
    "three-odd": _home("4 : 4 : 1", _host(4), _host(4), _host(16)),
    "three-far": _home("three alike, one behind 10 ms", _host(5), _host(5), _host(5, delay_ms=10)),
    "slow-wire": _home("two alike, 10 Mbit/s", _host(4, rate_mbit=10), _host(4, rate_mbit=10)),
    "memory": _home(
        "two alike, 3 ms a link, each with room for half of it",
        _host(4, delay_ms=3, daemon={"memory_budget": "420M"}),
        _host(4, delay_ms=3, daemon={"memory_budget": "420M"}),
    ),
    "four": _home("four alike, 0.2 ms and 300 Mbit/s", *[_host(8, delay_ms=0.2, rate_mbit=300)] * 4),
    "eight": _home("eight alike, a quick wire", *[_host(16)] * 8),
}
QUICK = ("two", "two-near", "two-far", "quarter")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", action="append", choices=HOMES, help="only this one; more than once for more")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--tokens", type=int, default=12, help="of an answer (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="answers of each plan; the median counts")
    parser.add_argument("--quick", action="store_true", help="a few homes, one answer of each plan")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    names = arguments.home or (QUICK if arguments.quick else HOMES)
    runs = 1 if arguments.quick else arguments.runs
    results = []
    try:
        for name in names:
            results.append(measure(name, arguments.models, arguments.model, arguments.tokens, runs))
            print(_line(results[-1]), file=sys.stderr, flush=True)
    except (LabError, RuntimeError) as error:
        print(f"planner: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps([asdict(result) for result in results]))
    else:
        print(_table(results))
    return 0


def measure(name: str, models: Path, model: str, n_tokens: int, runs: int) -> Result:
    """Raises LabError."""
    with Home(HOMES[name]) as home:
        mode = home.directory / "plan"
        os.environ["HOMELAB_PLAN"] = str(mode)
        home.start_daemons(models)
        user = home.hosts[0]
        if len(home.hosts) > 1:
            user.daemon.wait("a word on each link", lambda _: _has_links(user.daemon.log, len(home.hosts) - 1))
        client = Client(user.daemon.socket_path)
        _tpot_s(client, model, n_tokens, runs)  # what it really takes corrects what was measured at the start
        time.sleep(SETTLE_S)
        preview = client.post("/tpid/plan", {"model": model, "memory": None, "context_tokens": None})
        times: dict[str, list[float]] = {one: [] for one in MODES}
        for number in range(runs):
            for one in MODES if len(home.hosts) > 1 else MODES[:1]:
                mode.write_text(one)
                times[one] += _tpot_s(client, model, n_tokens, number)
        return Result(
            home=name,
            what=HOMES[name].description,
            ranks=[f"{rank['name']} {_percent(rank, preview)} %" for rank in preview["plan"]["ranks"]],
            left_out=[f"{entry['name']}: {entry['reason']}" for entry in preview["plan"]["left_out"]],
            predicted_s=preview["forecast"]["tpot_s"],
            chosen_s=statistics.median(times["chosen"]),
            equal_s=_middle(times["equal"]),
            alone_s=_middle(times["alone"]),
        )


def _middle(times: Sequence[float]) -> float | None:
    return statistics.median(times) if times else None


def _has_links(log: str, n_peers: int) -> bool:
    measured = [line.split(" link peer=")[1].split()[0] for line in log.splitlines() if " link peer=" in line]
    return len(set(measured)) >= n_peers


def _percent(rank: dict[str, Any], preview: dict[str, Any]) -> int:
    """Of the FFN."""
    ends = [one["share"]["ffn"]["stop"] for one in preview["plan"]["ranks"]]
    return round(100 * (rank["share"]["ffn"]["stop"] - rank["share"]["ffn"]["start"]) / max(ends))


def _tpot_s(client: Client, model: str, n_tokens: int, number: int) -> list[float]:
    """Of one answer, as a list; empty where this plan cannot hold the model."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": f"Number {number}."}],
        "max_tokens": n_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    try:
        answer = client.post("/v1/chat/completions", body)
    except Exception as error:
        print(f"planner: {error}", file=sys.stderr)
        return []
    return [answer["timings"]["tpot_s"]]


def _line(result: Result) -> str:
    return (
        f"{result.home:13} {', '.join(result.ranks):40} predicted {_ms(result.predicted_s)}, measured "
        f"{_ms(result.chosen_s)} ({result.error:+.0%}), equal {_ms(result.equal_s)}, alone {_ms(result.alone_s)}"
    )


def _table(results: Sequence[Result]) -> str:
    lines = ["| home | plan | predicted | measured | equal split | alone |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {result.what} | {', '.join(result.ranks)} | {_ms(result.predicted_s)} | {_ms(result.chosen_s)} "
        f"({result.error:+.0%}) | {_ms(result.equal_s)} | {_ms(result.alone_s)} |"
        for result in results
    ]
    return "\n".join(lines)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.0f} ms"


if __name__ == "__main__":
    sys.exit(main())

"""Decode over TLS beside decode over plain connections: two hosts of a home on a wire, the same answers in turns.

    sudo python benchmarks/over_tls.py --model NAME [--models DIRECTORY] [--quick] [--json]

Each round starts both daemons anew, first with TLS as always, then plain (`benchmarks/homelab/lab_daemon.py`).
"""

import argparse
import json
import os
import statistics
import sys
from pathlib import Path

from homelab.home import Home
from homelab.layout import parse_layout
from homelab.programs import LabError

TWO_HOSTS = """
[[hosts]]
name = "user"
role = "user"

[[hosts]]
name = "helper"
"""
WAYS = ("tls", "plain")
PLAIN = "HOMELAB_PLAIN"
N_TOKENS = 32


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path(".bench/models"), help="a directory of packs")
    parser.add_argument("--model", required=True, help="a pack among them")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    tpot_ms: dict[str, list[float]] = {way: [] for way in WAYS}
    try:
        with Home(parse_layout(TWO_HOSTS)) as home:
            for _ in range(1 if arguments.quick else 5):
                for way in WAYS:
                    tpot_ms[way] += round_of(home, way, arguments.models, arguments.model)
    except LabError as error:
        print(f"over_tls: {error}", file=sys.stderr)
        return 1
    tls_ms, plain_ms = (statistics.median(tpot_ms[way]) for way in WAYS)
    result = {"model": arguments.model, "tls_ms": tls_ms, "plain_ms": plain_ms, "tls_speed": plain_ms / tls_ms}
    told = f"TPOT {tls_ms:.1f} ms over TLS, {plain_ms:.1f} ms plain: {plain_ms / tls_ms:.3f} as fast"
    print(json.dumps(result) if arguments.json else f"{arguments.model}: {told}")
    return 0


def round_of(home: Home, way: str, models: Path, model: str) -> list[float]:
    """Milliseconds a token of two answers."""
    os.environ.pop(PLAIN, None)
    if way == "plain":
        os.environ[PLAIN] = "1"
    user, helper = home.hosts
    home.start_daemon(user, models, use_all_devices=True, peers=[f"{helper.addresses[0]}:7474"])
    home.start_daemon(helper, models, peers=[f"{user.addresses[0]}:7474"])
    home.wait_whole()
    user.daemon.ask(model, "Hello", 8)  # loads it
    answers = [user.daemon.ask(model, "Tell me a story.", N_TOKENS) for _ in range(2)]
    for host in home.hosts:
        host.daemon.stop()
    return [1e3 / answer.tokens_s for answer in answers]


if __name__ == "__main__":
    sys.exit(main())

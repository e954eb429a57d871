"""A home on this machine, from a TOML file: its hosts, its links, and a daemon on each; as root.

    python benchmarks/testbed.py HOME.toml                          faults and questions by command, until quit
    python benchmarks/testbed.py HOME.toml -- tpictl bench MODEL    one command on the first host
    python benchmarks/testbed.py HOME.toml --calibrate              round trips and rates beside what is set

Ready homes are in benchmarks/homes; docs/testbed.md says what a file may hold. Ctrl-C takes everything down.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from homelab.calibration import Pair, calibrate
from homelab.faults import Faults
from homelab.home import Home
from homelab.host import Host
from homelab.programs import LabError

MODELS = Path(".bench/models")
SCRIPTS = Path(sys.executable).parent  # where tpictl is, if it was installed with this Python


def main() -> int:
    ours, command = _cut(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path, help="a TOML file")
    parser.add_argument("--models", type=Path, default=MODELS, help="packs that all hosts have (default: %(default)s)")
    parser.add_argument("--calibrate", action="store_true", help="measure the links; starts no daemons")
    parser.add_argument("--quick", action="store_true", help="with --calibrate: a first look")
    parser.add_argument("--json", action="store_true", help="with --calibrate: one object")
    arguments = parser.parse_args(ours)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the home is taken down
    try:
        with Home.from_toml(arguments.home) as home:
            if arguments.calibrate:
                return _calibrate(home, quick=arguments.quick, as_json=arguments.json)
            arguments.models.mkdir(parents=True, exist_ok=True)
            print(f"{len(home.hosts)} hosts; starting their daemons ...", file=sys.stderr)
            home.start_daemons(arguments.models)
            if command:
                return subprocess.call(_on(home.hosts[0], command), env=_environment(home.hosts[0]))
            return _obey(home, Faults(home, arguments.models))
    except (LabError, RuntimeError) as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1


def _cut(words: list[str]) -> tuple[list[str], list[str]]:
    """What is before `--`, and what is behind it."""
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


# --- commands


def _obey(home: Home, faults: Faults) -> int:
    """Line by line, until `quit` or the end of the input."""
    print("`help` lists the commands.", file=sys.stderr)
    while True:
        try:
            words = shlex.split(input("home> " if sys.stdin.isatty() else ""))
        except EOFError:
            return 0
        except ValueError as error:
            print(error)
            continue
        if words == ["quit"]:
            return 0
        try:
            if words:
                _do(home, faults, words)
        except (LabError, RuntimeError, OSError) as error:
            print(error)


def _do(home: Home, faults: Faults, words: list[str]) -> None:
    match words:
        case ["help"]:
            print("status\nask HOST MODEL TEXT\nbench MODEL\nrun HOST COMMAND ...\nquit")
            print("\n".join(f"{name} {what}" for name, what in faults.names().items()))
        case ["status"]:
            for host in home.hosts:
                print(_line(host))
        case ["ask", name, model, text]:
            print(home.host(name).daemon.ask(model, text).text)
        case ["bench", model]:
            subprocess.call(_on(home.hosts[0], ["tpictl", "bench", model]), env=_environment(home.hosts[0]))
        case ["run", name, *command] if command:
            host = home.host(name)
            subprocess.call(_on(host, command), env=_environment(host))
        case _:
            print(faults.make(words) or "done")


def _line(host: Host) -> str:
    """What `status` says of one host."""
    where = f"{host.name:12} {', '.join(host.addresses):24}"
    if not host.daemon.is_running:
        return f"{where} no daemon"
    try:
        cluster = host.daemon.status()["cluster"]
    except OSError as error:
        return f"{where} does not answer: {error}"
    others = ", ".join(device["profile"]["name"] for device in cluster["devices"][1:])
    return f"{where} term {cluster['term']}, connected to {others or 'none'}"


def _on(host: Host, command: list[str]) -> list[str]:
    """`command` in the network of the host, but not in its limits: tpictl is a person's, not the daemon's."""
    return ["nsenter", f"--net=/run/netns/{host.namespace}", *command]


def _environment(host: Host) -> dict[str, str]:
    return os.environ | {
        "TPID_SOCKET": str(host.daemon.socket_path),
        "PATH": f"{SCRIPTS}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }


# --- calibration


def _calibrate(home: Home, *, quick: bool, as_json: bool) -> int:
    pairs = calibrate(home, n_trips=50 if quick else 500, seconds=1.0 if quick else 3.0)
    if as_json:
        print(json.dumps({"pairs": [asdict(pair) for pair in pairs], "switch": home.switch.stats()}))
        return 0
    _print_table(pairs)
    stats = home.switch.stats()
    late = f"median {stats['late_p50_us']} µs, 99 % {stats['late_p99_us']} µs"
    print(f"{stats['frames']} frames handed over, late by: {late}")
    return 0


def _print_table(pairs: Iterable[Pair]) -> None:
    print(f"{'pair':12} {'RTT set':>9} {'median':>9} {'99 %':>9} {'lost':>5} {'stream set':>12} {'measured':>10}")
    for pair in pairs:
        trips = f"{_number(pair.rtt_ms)} {_number(pair.p99_ms)} {pair.lost:5}"
        rates = f"{_number(pair.set_mbit, 12, 1)} {_number(pair.mbit, 10, 1)}"
        print(f"{pair.source + ' ' + pair.target:12} {_number(pair.set_rtt_ms)} {trips} {rates}", flush=True)
    print("round trips in ms, streams in Mbit/s of payload")


def _number(value: float | None, width: int = 9, digits: int = 2) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.{digits}f}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

"""70B shapes on real daemons, each in a memory cgroup of its own: eight with 1 GB each, and one alone with 3 GB.

The packs are large: one is made at a time, and deleted when both homes have answered.
"""

import argparse
import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from make_model import DEFAULT_DIRECTORY, make_model
from memory_cgroup import MemoryCgroup, memory_cgroup
from paired_home import PairedHome
from tpid.device import Role
from tpid.model.weights import Format

SHAPES = ("llama-2-70b", "llama-3.1-70b")
HOMES = ((8, 1_000_000_000), (1, 3_000_000_000))  # daemons, and bytes of each
FREE_BYTES = 15 << 30  # stays free on the disk
PACK_BYTES = 46 << 30  # of a 70B pack in w4, at most
CONTEXT_TOKENS, PREFILL_TOKENS = 512, 64
LEAST_TOKENS = 4
START_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 3600.0
POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class SeventyResult:
    row: str
    daemons: int
    budget_bytes: int
    peak_bytes: tuple[int, ...] = ()  # of each daemon's cgroup, the coordinator's first
    tokens: int = 0
    ttft_s: float = 0.0
    tpot_s: float | None = None
    shares: list[Any] = field(default_factory=list)  # of /tpid/status: where each daemon's weights are
    error: str = ""


def print_seventy(arguments: argparse.Namespace) -> list[SeventyResult]:
    results = []
    for shape in SHAPES:
        homes = [(n, each) for n, each in HOMES if fnmatch(_name(shape, n), arguments.rows)]
        if not homes:
            continue
        with _pack(shape, arguments.layers) as pack:
            for daemons, budget in homes:
                result = generate(_name(shape, daemons), pack, daemons, budget, max(arguments.tokens, LEAST_TOKENS))
                results.append(result)
                if not arguments.json:
                    print(_line(result), flush=True)
    return results


def generate(row: str, pack: Path, daemons: int, budget_bytes: int, tokens: int) -> SeventyResult:
    """One answer through the API of the coordinator."""
    with tempfile.TemporaryDirectory(prefix="tpid-70b-") as directory, contextlib.ExitStack() as stack:
        homes, groups = [], []
        roles = {f"device-{number}": Role.HELPER if number else Role.USER for number in range(daemons)}
        paired = stack.enter_context(PairedHome(roles))
        for number in range(daemons):  # one after the other: each measures its speed when it starts
            home = Path(directory) / str(number)
            home.mkdir()
            paired.furnish(f"device-{number}", home / "state")
            group = stack.enter_context(memory_cgroup(budget_bytes))
            process = stack.enter_context(_daemon(home, group, pack.parent, number, budget_bytes=budget_bytes))
            _wait(home, process, 1)
            homes.append((home, process))
            groups.append(group)
        _wait(*homes[0], daemons)
        body = {"model": pack.name, "messages": [{"role": "user", "content": "Good morning."}], "max_tokens": tokens}
        status, answer = _request(homes[0][0], "/v1/chat/completions", body | {"temperature": 0})
        peaks = tuple(group.peak_bytes for group in groups)
        if status != 200:
            killed = [str(number) for number, group in enumerate(groups) if group.killed]
            reason = f"killed for want of memory: {', '.join(killed)}" if killed else str(answer["error"]["message"])
            return SeventyResult(row, daemons, budget_bytes, peaks, error=reason)
        _, state = _request(homes[0][0], "/tpid/status")
        timings = answer["timings"]
        return SeventyResult(
            row,
            daemons,
            budget_bytes,
            peaks,
            answer["usage"]["completion_tokens"],
            timings["ttft_s"],
            timings["tpot_s"],
            list(state["weights"].values()),
        )


@contextlib.contextmanager
def _daemon(
    home: Path, group: MemoryCgroup, models: Path, number: int, *, budget_bytes: int
) -> Iterator["subprocess.Popen[bytes]"]:
    settings = {
        "name": f"device-{number}",
        "role": "helper" if number else "user",
        "listen": "loopback",
        "state_dir": str(home / "state"),
        "models_dir": str(models),
        "socket": str(home / "tpid.sock"),
        "port": 0,
        "api.listen": "off",
        "threads": 1,
        "backend": "native",
        "memory_budget": budget_bytes,
        "context_tokens": CONTEXT_TOKENS,
        "prefill_tokens": PREFILL_TOKENS,
    }
    config = home / "tpid.toml"
    config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
    with (home / "log").open("wb") as log:
        command = group.command([sys.executable, "-m", "tpid.daemon.main", "--config", str(config)])
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(home: Path, process: "subprocess.Popen[bytes]", devices: int) -> None:
    """Until the daemon answers, and knows so many devices. Raises RuntimeError."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            state = _request(home, "/tpid/status")[1]
            if devices == 1 or sum(bool(device["granted"]) for device in state["cluster"]["devices"]) == devices:
                return
        time.sleep(POLL_S)
    end = "".join((home / "log").read_text().splitlines(keepends=True)[-3:])
    raise RuntimeError(f"{home.name}: no {devices} devices came together.\n{end}")


def _request(home: Path, path: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(ANSWER_TIMEOUT_S)
    with contextlib.closing(connection):
        connection.sock.connect(str(home / "tpid.sock"))
        connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        return response.status, json.loads(response.read())


@contextlib.contextmanager
def _pack(shape: str, layers: int | None) -> Iterator[Path]:
    """In a directory of its own, which goes with it. Raises RuntimeError where the disk is too full."""
    directory = DEFAULT_DIRECTORY.absolute().parent / "seventy"
    directory.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory).free
    if layers is None and free < PACK_BYTES + FREE_BYTES:
        raise RuntimeError(
            f"{directory} has {free >> 30} GiB free, a 70B pack needs {(PACK_BYTES + FREE_BYTES) >> 30}."
        )
    path = directory / f"{shape}-{Format.W4}"
    print(f"making {path} ...", file=sys.stderr, flush=True)
    try:
        make_model(shape, Format.W4, path, layers=layers, replace=True)
        yield path
    finally:
        shutil.rmtree(directory)


def _name(shape: str, daemons: int) -> str:
    return f"seventy {shape} w4 x{daemons}"


def _line(result: SeventyResult) -> str:
    peaks = " ".join(f"{peak / 1e9:.3f}" for peak in result.peak_bytes)
    head = f"{result.row:<28} budget {result.budget_bytes / 1e9:g} GB  peaks {peaks} GB"
    if result.error:
        return f"{head}  {result.error}"
    tpot = f"{result.tpot_s:.1f}" if result.tpot_s is not None else "-"
    return f"{head}  {result.tokens} tokens  TTFT {result.ttft_s:.1f} s  TPOT {tpot} s"

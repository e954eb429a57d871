"""Daemons for a benchmark: real processes, as `make demo` starts them, each on a core of its own."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from socket import AF_UNIX, socket
from typing import Any

from paired_home import PairedHome
from tpid.device import Role

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    completion_tokens: int
    tokens_s: float  # by the daemon's clock, after the first token


class Cluster:
    """The daemons of one cluster; `ask` is answered by the first."""

    def __init__(self, control: Path) -> None:
        self._control = control

    def ask(self, model: str, prompt: str, max_tokens: int, **fields: Any) -> Answer:
        """`fields`: others of the request. Raises RuntimeError with the daemon's words."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": 0,
            **fields,
        }
        answer = self._request("POST", "/v1/chat/completions", body)
        text = answer["choices"][0]["message"]["content"]
        return Answer(text, answer["usage"]["completion_tokens"], answer["timings"]["tokens_s"])

    def ranks(self) -> list[dict[str, Any]]:
        """Those of the plan that is loaded."""
        plan = self.status()["plan"]
        return list(plan["ranks"]) if plan else []

    def status(self) -> dict[str, Any]:
        return self._request("GET", "/tpid/status", None)

    def findings(self) -> list[dict[str, str]]:
        """Of the doctor: each with its level, what is, why it matters and what to do."""
        return list(self._request("GET", "/tpid/doctor", None)["findings"])

    def _request(self, method: str, path: str, body: object) -> dict[str, Any]:
        connection = HTTPConnection("localhost")
        connection.sock = socket(AF_UNIX)
        with contextlib.closing(connection):
            connection.sock.connect(str(self._control))
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            answer: dict[str, Any] = json.load(response)
        if response.status != 200:
            raise RuntimeError(f"{path} was answered by {response.status}: {answer}")
        return answer


@contextlib.contextmanager
def cluster(name: str, cores: Sequence[int | str], models: Path, directory: Path) -> Iterator[Cluster]:
    """A cluster of one daemon for each core, or for cores such as "0,1"; the first is the user's, the others help.

    `directory` has a short path.
    """
    with contextlib.ExitStack() as stack:
        roles = {f"{name}{rank}": Role.HELPER if rank else Role.USER for rank in range(len(cores))}
        paired = stack.enter_context(PairedHome(roles))
        for rank, core in enumerate(cores):
            paired.furnish(f"{name}{rank}", directory / f"{name}{rank}")
            settings = {
                "name": f"{name}{rank}",
                "role": "helper" if rank else "user",
                "listen": "loopback",
                "state_dir": str(directory / f"{name}{rank}"),
                "models_dir": str(models.resolve()),
                "socket": str(directory / f"{name}{rank}.sock"),
                "port": 0,
                "api.listen": "off",
                "threads": 1,
                "use_all_devices": True,
                "backend": "native",
            }
            stack.enter_context(_daemon(settings, core, directory / f"{name}{rank}"))
        found = Cluster(directory / f"{name}0.sock")
        _wait_for_all(found, len(cores), directory)
        yield found


@contextlib.contextmanager
def _daemon(settings: Mapping[str, object], core: int | str, path: Path) -> Iterator[None]:
    """From start to end; `path` and a suffix each is where its configuration and its log go."""
    config = path.with_suffix(".toml")
    config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
    command = ["taskset", "--cpu-list", str(core), sys.executable, "-m", "tpid.daemon.main", "--config", str(config)]
    with path.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, start_new_session=True)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_all(found: Cluster, n_devices: int, directory: Path) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        with contextlib.suppress(OSError, ValueError):
            if sum(bool(device["granted"]) for device in found.status()["cluster"]["devices"]) == n_devices:
                return
        time.sleep(POLL_S)
    logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in directory.glob("*.log"))
    raise RuntimeError(f"After {START_TIMEOUT_S:g} s the {n_devices} daemons are not one cluster:\n{logs}")

"""Real daemons: processes of their own on loopback, with mDNS on loopback, in clusters of their own."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from benchmarks.memory_cgroup import MemoryCgroup
from benchmarks.paired_home import PairedHome
from tpid.device import Role
from tpid.pack.reader import Pack

READY_TIMEOUT_S = 60.0


@dataclass
class Daemon:
    """One `tpid` process; `request` speaks to it as tpictl does."""

    name: str
    directory: Path
    process: subprocess.Popen[bytes]

    @property
    def socket_path(self) -> Path:
        return self.directory / "tpid.sock"

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def connect(self, timeout_s: float = 120.0) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("localhost", timeout=timeout_s)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(timeout_s)
        connection.sock.connect(str(self.socket_path))
        return connection

    def request(self, path: str, body: Any = None) -> tuple[int, Any]:
        with contextlib.closing(self.connect()) as connection:
            connection.request("GET" if body is None else "POST", path, json.dumps(body) if body is not None else None)
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def status(self) -> Any:
        return self.request("/tpid/status")[1]

    def stream(self, prompt: str, **options: Any) -> "Stream":
        return Stream(self, chat_body(prompt, stream=True, **options))

    def chat(self, prompt: str | list[dict[str, str]], **options: Any) -> Any:
        """A whole answer; fails on an error."""
        status, answer = self.request("/v1/chat/completions", chat_body(prompt, **options))
        assert status == 200, answer
        return answer

    def wait(self, what: str, condition: Callable[[Any], bool]) -> Any:
        """The first status that meets the condition."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        status: Any = None
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"{self.name} ended:\n{self.log}"
            with contextlib.suppress(OSError):
                status = self.status()
                if condition(status):
                    return status
            time.sleep(0.05)
        raise AssertionError(f"{self.name}: {what} did not come about; last: {status}\n{self.log}")

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def chat_body(prompt: str | list[dict[str, str]], **options: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return {"model": "smollm2-135m", "messages": messages, "temperature": 0} | options


class Stream:
    """An answer as it comes; closing it cancels the request."""

    def __init__(self, daemon: Daemon, body: dict[str, Any]) -> None:
        self._connection = daemon.connect()
        self._connection.request("POST", "/v1/chat/completions", json.dumps(body))
        self._response = self._connection.getresponse()
        assert self._response.status == 200, self._response.read()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for line in self._response:
            if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                yield json.loads(line[6:])

    def texts(self) -> Iterator[str]:
        """The pieces of text; fails on an error."""
        for event in self:
            assert "error" not in event, event
            text = event["choices"][0]["delta"].get("content")
            if text:
                yield text

    def close(self) -> None:
        self._response.close()
        self._connection.close()


@dataclass
class Home:
    """All daemons of a test; they share a directory of models."""

    directory: Path
    daemons: list[Daemon] = field(default_factory=list)
    paired: dict[str, PairedHome] = field(default_factory=dict)  # by the names of its devices

    @property
    def models_dir(self) -> Path:
        return self.directory / "models"

    def add_model(self, pack: Pack) -> None:
        shutil.copytree(pack.directory, self.models_dir / pack.directory.name, copy_function=_link_or_copy)

    def pair(self, **roles: str) -> None:
        """These devices, which have not run yet, belong to one home from now on."""
        home = PairedHome({name: Role(role) for name, role in roles.items()})
        self.paired |= dict.fromkeys(roles, home)

    def write_config(self, name: str, **settings: Any) -> Path:
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        values = {
            "name": name,
            "listen": "loopback",
            "state_dir": str(directory / "state"),
            "models_dir": str(self.models_dir),
            "socket": str(directory / "tpid.sock"),
            "port": 0,
            "api.listen": "off",
            "threads": 1,
            "use_all_devices": True,
        } | settings
        path = directory / "tpid.toml"
        path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
        return path

    def launch(
        self,
        name: str,
        *,
        group: MemoryCgroup | None = None,
        environment: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> Daemon:
        """Start a daemon, in a cgroup if one is given, and do not wait for it. Alone, unless it was paired."""
        config = self.write_config(name, **settings)
        if name in self.paired:
            self.paired[name].furnish(name, config.parent / "state")
        with (config.parent / "log").open("ab") as log:
            command = [sys.executable, "-m", "tpid.daemon.main", "--config", str(config)]
            command = group.command(command) if group is not None else command
            process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | (environment or {}))
            daemon = Daemon(name, config.parent, process)
        self.daemons.append(daemon)
        return daemon

    def start(self, *names: str, **settings: Any) -> list[Daemon]:
        """The first is the user's, the others help; returns when all are one cluster."""
        if not any(name in self.paired for name in names):
            self.pair(**{name: "helper" if index else "user" for index, name in enumerate(names)})
        started = [
            self.launch(name, role="user" if index == 0 else "helper", **settings) for index, name in enumerate(names)
        ]
        started[0].wait("a cluster of all", lambda status: _granted(status) == len(names))
        return started

    @staticmethod
    def tpictl(daemon: Daemon, *arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "tpictl.main", *arguments]
        environment = os.environ | {"TPID_SOCKET": str(daemon.socket_path)}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=120, **options
        )


def _granted(status: Any) -> int:
    return sum(device["granted"] for device in status["cluster"]["devices"])


@pytest.fixture(scope="session")
def tpictl() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """`tpictl(daemon, *arguments)` runs the command line against a daemon."""
    return Home.tpictl


@pytest.fixture
def home() -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="tpid-test-") as directory:  # short: Unix sockets are in it
        here = Home(Path(directory))
        here.models_dir.mkdir()
        try:
            yield here
        finally:
            for daemon in here.daemons:
                daemon.stop()
            for paired in here.paired.values():
                paired.close()


@pytest.fixture
def model_home(home: Home, smollm2: Pack) -> Home:
    """With SmolLM2 on its shelf."""
    home.add_model(smollm2)
    return home


@pytest.fixture(scope="module")
def shared_daemon(smollm2: Pack) -> Iterator[Daemon]:
    """One daemon for tests that leave it as it was."""
    with tempfile.TemporaryDirectory(prefix="tpid-test-") as directory:
        here = Home(Path(directory))
        here.models_dir.mkdir()
        here.add_model(smollm2)
        (daemon,) = here.start("shared")
        try:
            yield daemon
        finally:
            daemon.stop()
            here.paired["shared"].close()


@pytest.fixture(scope="session")
def tcp_daemon(smollm2: Pack) -> Iterator[Daemon]:
    """One daemon whose API is on TCP, too, for the tests of all clients; they leave it as it was."""
    with tempfile.TemporaryDirectory(prefix="tpid-test-") as directory:
        here = Home(Path(directory))
        here.models_dir.mkdir()
        here.add_model(smollm2)
        (daemon,) = here.start("tcp", **{"api.listen": "127.0.0.1:0"})
        try:
            yield daemon
        finally:
            daemon.stop()


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)

"""The daemon of a host: how it is started, spoken to and ended. Nothing else knows how a daemon gets into a home."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homelab.lab_daemon import VARIABLES
from homelab.programs import LabError
from two_daemons import Answer, Cluster

if TYPE_CHECKING:
    from homelab.host import Host

PORT = 7474  # of every host: the default, as at home
STOP_TIMEOUT_S = 20.0
WAIT_TIMEOUT_S = 60.0
POLL_S = 0.05
_LAB_DAEMON = Path(__file__).with_name("lab_daemon.py")


class Daemon:
    """The `tpid` of one host, which may be started and ended many times; its state stays on the host's disk."""

    def __init__(self, host: "Host") -> None:
        self._host = host
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket_path(self) -> Path:
        return self._host.directory / "tpid.sock"

    @property
    def log(self) -> str:
        path = self._host.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, models: Path, **settings: Any) -> None:
        """Begins to start it. `settings` are of its tpid.toml, and win over those of the layout."""
        if self.is_running:
            raise LabError(f"The daemon of {self._host.name} runs already.")
        config = self._write_config(models, settings)
        environment = self._host.environment()
        laboratory = any(name in environment for name in VARIABLES)
        program = [str(_LAB_DAEMON)] if laboratory else ["-m", "tpid.daemon.main"]
        command = [sys.executable, "-P", *program]
        with (self._host.directory / "log").open("ab") as log:
            self._process = self._host.popen(*command, "--config", config, stdout=log, stderr=log, env=environment)

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """At once, as when the power fails."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """In order, as the system does it."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    # --- speaking to it, as tpictl does

    def status(self) -> dict[str, Any]:
        return Cluster(self.socket_path).status()

    def findings(self) -> list[dict[str, str]]:
        """What `tpictl doctor` tells."""
        return Cluster(self.socket_path).findings()

    def ask(self, model: str, prompt: str, max_tokens: int = 32) -> Answer:
        """Raises RuntimeError with the daemon's words."""
        return Cluster(self.socket_path).ask(model, prompt, max_tokens)

    def granted(self) -> set[str]:
        """The names of the devices that have given this one their lease, its own included."""
        return {device["profile"]["name"] for device in self.status()["cluster"]["devices"] if device["granted"]}

    def wait(self, what: str, condition: Callable[[dict[str, Any]], bool], timeout_s: float = WAIT_TIMEOUT_S) -> float:
        """Until its status meets the condition; gives the seconds. Raises LabError."""
        began_s = time.monotonic()
        while time.monotonic() - began_s < timeout_s:
            if not self.is_running:
                raise LabError(f"The daemon of {self._host.name} ended:\n{self.log}")
            with contextlib.suppress(OSError, ValueError):
                if condition(self.status()):
                    return time.monotonic() - began_s
            time.sleep(POLL_S)
        raise LabError(f"On {self._host.name} {what} did not come about in {timeout_s:g} s:\n{self.log}")

    def _write_config(self, models: Path, settings: dict[str, Any]) -> Path:
        values = {
            "name": self._host.name,
            "role": self._host.layout.role.value,
            "state_dir": str(self._host.disk),
            "models_dir": str(models.resolve()),
            "socket": str(self.socket_path),
            "port": PORT,
            "threads": 1,
        }
        values |= self._host.layout.daemon | settings
        path = self._host.directory / "tpid.toml"
        path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
        return path

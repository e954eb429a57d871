"""`make demo`: two daemons on this machine, paired, one model between them, and a chat. Ends what it started.

Each daemon is a process with a state directory of its own; they share a directory of models, as two devices
with a network drive would. Everything lies in `.demo` and stays there, so that a second run starts at once.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from socket import AF_UNIX, socket
from typing import Any

MODEL = "smollm2-135m"
DIRECTORY = Path(".demo")
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.1
_TPICTL = (sys.executable, "-m", "tpictl.main")


def main() -> int:
    # Unix sockets have short paths, a checkout may have a long one.
    with tempfile.TemporaryDirectory(prefix="tpid-demo-") as sockets, contextlib.ExitStack() as stack:
        laptop = stack.enter_context(_daemon("laptop", "user", Path(sockets)))
        _wait_until(laptop, "is up", lambda status: True)
        if not (DIRECTORY / "models" / MODEL).exists():
            pulled = _tpictl(laptop, "pull", MODEL)
            if pulled != 0:
                return pulled
        desktop = stack.enter_context(_daemon("desktop", "helper", Path(sockets)))
        _wait_until(desktop, "is up", lambda status: True)
        if not _are_paired(laptop):
            paired = _pair(laptop, desktop)
            if paired != 0:
                return paired
        _wait_until(laptop, "has found the other", _two_devices)
        # The statistics belong to what the demo shows: on stdout, behind the answer.
        return _tpictl(laptop, "chat", MODEL, "--temperature", "0", "--stats", stderr=subprocess.STDOUT)


@contextlib.contextmanager
def _daemon(name: str, role: str, sockets: Path) -> Iterator[Path]:
    """A daemon, from start to end; gives its control socket."""
    directory = (DIRECTORY / name).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    control = sockets / f"{name}.sock"
    settings = {
        "name": name,
        "role": role,
        "listen": "loopback",
        "state_dir": str(directory / "state"),
        "models_dir": str((DIRECTORY / "models").resolve()),
        "socket": str(control),
        "port": 0,
        "api.listen": "off",
        "use_all_devices": True,
        "threads": max((os.cpu_count() or 2) // 2, 1),
    }
    config = directory / "tpid.toml"
    config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
    with (directory / "log").open("wb") as log:
        # In a session of its own: Ctrl-C in the chat is not for the daemons.
        process = subprocess.Popen(
            [sys.executable, "-m", "tpid.daemon.main", "--config", str(config)], stderr=log, start_new_session=True
        )
    try:
        yield control
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until(control: Path, what: str, condition: Any) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            if condition(_status(control)):
                return
        time.sleep(POLL_S)
    sys.exit(f"After {START_TIMEOUT_S:g} s no daemon {what}; see the logs in {DIRECTORY}.")


def _two_devices(status: dict[str, Any]) -> bool:
    return sum(bool(device["granted"]) for device in status["cluster"]["devices"]) == 2


def _are_paired(control: Path) -> bool:
    return len(_get(control, "/tpid/devices")["devices"]) > 1


def _pair(inviter: Path, joiner: Path) -> int:
    """As two people do it: one reads the code aloud, the other types it."""
    invitation = subprocess.Popen(
        [*_TPICTL, "invite", "--json"], env=_environment(inviter), stdout=subprocess.PIPE, text=True
    )
    with invitation:
        line = invitation.stdout.readline() if invitation.stdout is not None else ""
        try:
            code = str(json.loads(line)["code"])
        except (ValueError, KeyError):
            sys.exit(f"No invitation could be opened: {line.strip()}")
        print(f"$ tpictl invite        on the laptop, which shows {code}")
        print(f"$ tpictl join {code}        on the desktop", flush=True)
        joined = _tpictl(joiner, "join", code)
        if joined != 0:
            invitation.terminate()
        return joined or invitation.wait()


def _status(control: Path) -> dict[str, Any]:
    return _get(control, "/tpid/status")


def _get(control: Path, target: str) -> dict[str, Any]:
    connection = HTTPConnection("localhost")
    connection.sock = socket(AF_UNIX)
    with contextlib.closing(connection):
        connection.sock.connect(str(control))
        connection.request("GET", target)
        answer: dict[str, Any] = json.load(connection.getresponse())
        return answer


def _tpictl(control: Path, *arguments: str, stderr: int | None = None) -> int:
    # Ctrl-C is for tpictl, which ends an answer with it. A handler, because an ignored signal would be inherited.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    return subprocess.call([*_TPICTL, *arguments], env=_environment(control), stderr=stderr)


def _environment(control: Path) -> dict[str, str]:
    return os.environ | {"TPID_SOCKET": str(control)}


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)

"""Before a chat on a terminal: a daemon where none runs, and a model where there is none. One question at most."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tpictl.client.answers import CatalogueModel, Models
from tpictl.client.calls import get_models, get_status
from tpictl.client.connection import Client
from tpictl.commands.importing import run_pull
from tpictl.paths import SYSTEM_SOCKET, log_path, socket_path
from tpictl.printable import printable_line
from tpictl.view.quantities import format_duration
from tpid.errors import DaemonUnreachableError, ModelNotFoundError
from tpid.size import shown_size

START_TIMEOUT_S = 60.0
POLL_S = 0.05
MAX_TOLD_CHARS = 500  # of the log's last line
SHOWN_RATES_BITS_S = (50e6, 10e6)  # of lines at home, to tell how long a download takes

_DAEMON = ("-m", "tpid.daemon.main")
_WHERE_TO_LOOK = "Read its log"

Ask = Callable[[str], str]


def ready(option: Path | None, model: str | None) -> tuple[Client, str | None]:
    """The client to chat with, and the model: what was asked for, or what has been fetched just now.

    Off a terminal nothing is started and nothing asked. Raises TpidError.
    """
    client = Client(socket_path(option, os.environ))
    if not sys.stdin.isatty():
        return client, model
    chosen = option is not None or "TPID_SOCKET" in os.environ or client.path == SYSTEM_SOCKET
    if not chosen and not _listens(client.path):
        client = start_daemon(os.environ, _say)
    return client, with_model(client, model, _ask)


def start_daemon(environment: Mapping[str, str], say: Callable[[str], None]) -> Client:
    """Start one that goes on when this command ends, and wait until it answers. Raises DaemonUnreachableError."""
    log = log_path(environment)
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *_DAEMON],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=file,
            start_new_session=True,  # Ctrl-C in the chat is not for it
            cwd="/",  # where Python looks for modules, and what it keeps from being unmounted
            env=environment,
        )
    say(
        f"No daemon ran here: started one (process {process.pid}, log {log}). It stays when this chat ends; "
        f"kill {process.pid} ends it. To have one always: tpictl service install."
    )
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        path = socket_path(None, environment)
        if _listens(path):
            return Client(path)
        if process.poll() is not None:
            raise DaemonUnreachableError(f"The daemon has ended: {_last_line(log)}", hint=f"{_WHERE_TO_LOOK}: {log}.")
        time.sleep(POLL_S)
    raise DaemonUnreachableError(
        f"The daemon has not answered within {START_TIMEOUT_S:g} s.", hint=f"{_WHERE_TO_LOOK}: {log}."
    )


def with_model(client: Client, model: str | None, ask: Ask) -> str | None:
    """`model`, fetched if its owner says so; without one, the home's default where no model is here.

    Raises ModelNotFoundError where it is not wanted, and what a pull raises.
    """
    models = get_models(client)
    names = [each.name for each in models.models if each.damaged is None]
    if model in names or (model is None and names):
        return model
    wanted = model or models.default
    entry = models.catalogue.get(wanted)
    if entry is None:
        return model  # the daemon says what there is
    answer = ask(_offer(client, models, wanted, entry)).strip().lower()
    if answer in ("n", "no"):
        raise ModelNotFoundError("No model was fetched.", hint="What there is: tpictl models. Any other: tpictl pull.")
    if answer in models.catalogue:
        wanted = answer
    elif answer not in ("", "y", "yes"):
        raise ModelNotFoundError(
            f"The catalogue has no {printable_line(answer)}.",
            hint="What there is: tpictl models. Any other: tpictl pull.",
        )
    run_pull(client, wanted, name=None, format=None, replace=False, as_json=False)
    return wanted


def _offer(client: Client, models: Models, name: str, entry: CatalogueModel) -> str:
    """What it is, what it costs, and the question."""
    times = " or ".join(
        f"{format_duration(entry.size_bytes * 8 / rate)} at {rate / 1e6:.0f} Mbit/s" for rate in SHOWN_RATES_BITS_S
    )
    home_bytes = sum(device.profile.budget_bytes for device in get_status(client).cluster.devices)
    lines = [
        f"{name} is not on this device yet." if models.models else "No model is on this device yet.",
        f"{name}: {entry.about}; {entry.quantization}, licence {entry.licence}.",
        f"About {shown_size(entry.size_bytes)} to fetch ({times}), and {shown_size(entry.memory_bytes)} of the "
        f"{shown_size(home_bytes)} of memory that your devices may take.",
        f"Fetch {name}? [Y/n, or another name of tpictl models] ",
    ]
    return "\n".join(lines)


def _listens(path: Path) -> bool:
    """Whether anybody answers there, or might: what may not be opened is no reason to start a second daemon."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            return True
    return True


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return printable_line(lines[-1][:MAX_TOLD_CHARS]) if lines else "it gave no reason."


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _ask(text: str) -> str:
    """A line from the terminal; its end counts as no."""
    print(text, end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    if not line:
        print(file=sys.stderr)
        return "n"
    return line

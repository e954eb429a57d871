"""What happens before a first chat: a daemon is started, a model offered, and nothing is done unasked."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tpictl.client.connection import Client
from tpictl.commands import first_start
from tpictl.commands.first_start import ready, start_daemon, with_model
from tpid.errors import DaemonUnreachableError, ModelNotFoundError

_LISTENS = """
import os, signal, socket
path = os.environ["XDG_RUNTIME_DIR"] + "/tpid/tpid.sock"
os.makedirs(os.path.dirname(path), exist_ok=True)
server = socket.socket(socket.AF_UNIX)
server.bind(path)
server.listen()
signal.pause()
"""
_FAILS = "import sys; print('one\\ntpid: The port is taken.', file=sys.stderr); sys.exit(1)"


@pytest.fixture
def client(daemon: Any) -> Client:
    return Client(daemon.path)


class Asked:
    """A person who answers always the same; `texts` is what was asked."""

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.texts: list[str] = []

    def __call__(self, text: str) -> str:
        self.texts.append(text)
        return self.answer


def pack_line(name: str) -> dict[str, Any]:
    return {"pack": {"name": name, "id": "0", "size_bytes": 10**6}}


def test_what_is_here_needs_no_question(daemon: Any, client: Client) -> None:
    nobody = Asked("n")
    assert with_model(client, None, nobody) is None
    assert with_model(client, "smollm2-135m", nobody) == "smollm2-135m"
    assert with_model(client, "my-own", nobody) == "my-own"  # the daemon will say that it is not here
    assert nobody.texts == []


def test_without_a_model_the_homes_default_is_offered(daemon: Any, client: Client) -> None:
    daemon.models |= {"models": [], "default": "llama-3.2-3b"}
    daemon.import_lines = [pack_line("llama-3.2-3b")]
    owner = Asked("\n")
    assert with_model(client, None, owner) == "llama-3.2-3b"
    assert daemon.body("/tpid/pull")["model"] == "llama-3.2-3b"
    assert owner.texts == [
        "No model is on this device yet.\n"
        "llama-3.2-3b: Llama 3.2 3B Instruct; Q4_K_M, licence Llama 3.2 Community.\n"
        "About 2.05 GB to fetch (5 min at 50 Mbit/s or 27 min at 10 Mbit/s), and 2.73 GB of the 22.0 GB of memory "
        "that your devices may take.\n"
        "Fetch llama-3.2-3b? [Y/n, or another name of tpictl models] "
    ]


def test_a_name_of_the_catalogue_is_offered_where_it_is_asked_for(daemon: Any, client: Client) -> None:
    daemon.import_lines = [pack_line("qwen3-8b")]
    owner = Asked("yes\n")
    assert with_model(client, "qwen3-8b", owner) == "qwen3-8b"
    assert owner.texts[0].startswith("qwen3-8b is not on this device yet.\n")


def test_another_name_may_be_typed(daemon: Any, client: Client) -> None:
    daemon.models["models"] = []
    daemon.import_lines = [pack_line("qwen3-4b")]
    assert with_model(client, None, Asked("Qwen3-4B\n")) == "qwen3-4b"


@pytest.mark.parametrize(("answer", "message"), [("n\n", "No model was fetched"), ("what?\n", "has no what?")])
def test_nothing_is_fetched_unasked(daemon: Any, client: Client, answer: str, message: str) -> None:
    daemon.models["models"] = []
    with pytest.raises(ModelNotFoundError, match=message.replace("?", r"\?")) as caught:
        with_model(client, None, Asked(answer))
    assert caught.value.hint is not None
    assert not [path for path, _ in daemon.requests if path == "/tpid/pull"]


def test_a_daemon_is_started_and_stays(short_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_start, "_DAEMON", ("-c", _LISTENS))
    environment = {"XDG_RUNTIME_DIR": str(short_directory), "XDG_STATE_HOME": str(short_directory)}
    said: list[str] = []
    client = start_daemon(environment, said.append)
    pid = int(said[0].split("process ")[1].split(",")[0])
    try:
        assert client.path == short_directory / "tpid" / "tpid.sock"
        assert os.getsid(pid) == pid  # no Ctrl-C of this terminal reaches it
        assert said[0].startswith("No daemon ran here: started one (process ")
        assert f"log {short_directory / 'tpid' / 'tpid.log'}" in said[0]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_daemon_that_ends_is_told_with_its_last_word(short_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_start, "_DAEMON", ("-c", _FAILS))
    environment = {"XDG_STATE_HOME": str(short_directory)}
    with pytest.raises(DaemonUnreachableError, match=r"The daemon has ended: tpid: The port is taken\.") as caught:
        start_daemon(environment, lambda text: None)
    assert caught.value.hint == f"Read its log: {short_directory / 'tpid' / 'tpid.log'}."


def test_off_a_terminal_nothing_is_started(short_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115
    monkeypatch.delenv("TPID_SOCKET", raising=False)
    for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(short_directory))
    monkeypatch.setattr(first_start, "_DAEMON", ("-c", "raise SystemExit('not to be started')"))
    client, model = ready(None, "m")
    assert (client.path, model) == (short_directory / "tpid" / "tpid.sock", "m")
    assert list(short_directory.iterdir()) == []

"""`tpictl chat` on a machine where nothing is: one command, one decision, and an answer."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.unit.download.hub import FakeHub
from tests.unit.tpictl.commands.test_chat_on_a_terminal import CTRL_D, ENTER, Terminal
from tpid.model.catalogue import CATALOGUE, Package, default_model

TIMEOUT_S = 60


@pytest.fixture
def hub(smollm2_gguf: Path) -> Iterator[FakeHub]:
    """It has SmolLM2 under the names of all models that a home may begin with."""
    data = smollm2_gguf.read_bytes()
    hub = FakeHub()
    for entry in CATALOGUE.values():
        if not isinstance(entry.source, Package):
            repo, quant = entry.source.removeprefix("hf.co/").split(":")
            hub.repos[repo] = {f"model-{quant}.gguf": data}
    hub.start()
    yield hub
    hub.stop()


@pytest.fixture
def short_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tpid-test-") as directory:  # short: Unix sockets are in it
        yield Path(directory)


def test_one_command_and_one_decision(hub: FakeHub, short_directory: Path) -> None:
    config = {"listen": "loopback", "port": 0, "api.listen": "off", "threads": 1, "memory_budget": "2G"}
    (short_directory / "tpid").mkdir()
    (short_directory / "tpid" / "tpid.toml").write_text(
        "".join(f"{key} = {json.dumps(value)}\n" for key, value in config.items())
    )
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | {
        **{name: str(short_directory) for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME")},
        **{"HF_ENDPOINT": hub.url, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
    }
    terminal = Terminal(environment, "chat", "--temperature", "0", "--max-tokens", "16", columns=200)
    pid = None
    try:
        terminal.wait_for("tpictl service install.")
        pid = int(re.findall(r"started one \(process (\d+),", terminal.text())[0])
        name = default_model(2 * 10**9)
        terminal.wait_for(f"Fetch {name}? [Y/n, or another name of tpictl models]")
        terminal.type(b"\n")
        terminal.wait_for(f"{name} is ready (")
        terminal.say(b"What is the capital of France?", ENTER)
        terminal.wait_for("The capital of France is Paris.")
        terminal.say(CTRL_D)
        assert terminal.exit_code() == 0
        # The daemon stays, and whoever comes next is asked nothing.
        command = [sys.executable, "-m", "tpictl.main", "ps", "--json"]
        listed = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=TIMEOUT_S)
        assert json.loads(listed.stdout)["loaded"][0]["model"] == name
    finally:
        terminal.close()
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=TIMEOUT_S)

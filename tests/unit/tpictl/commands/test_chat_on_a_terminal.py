"""The chat on a pseudo-terminal, key by key."""

import os
import select
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

TIMEOUT_S = 20.0
ENTER, CTRL_C, CTRL_D, ALT_ENTER = b"\r", b"\x03", b"\x04", b"\x1b\r"
PROMPT = b"> "
# Python's own: gives the child a controlling terminal, so that Ctrl-C is a signal as it is for a person.
SPAWN = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"


class Terminal:
    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        command = [sys.executable, "-c", SPAWN, sys.executable, "-m", "tpictl.main", *arguments]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True, bufsize=0
        )
        self.shown = b""

    def type(self, *keys: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"".join(keys))

    def wait_for(self, text: bytes) -> bytes:
        """What was shown up to and with `text`, since the last call."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + TIMEOUT_S
        while text not in self.shown:
            ready, _, _ = select.select([self.process.stdout], [], [], max(deadline - time.monotonic(), 0))
            data = os.read(self.process.stdout.fileno(), 1 << 16) if ready else b""
            assert data, f"{text!r} does not come after {self.shown!r}"
            self.shown += data
        before, self.shown = self.shown.split(text, 1)
        return before + text

    def say(self, *keys: bytes) -> bytes:
        """Type at the prompt, not before: the terminal makes lines of what is typed ahead. Gives what was shown."""
        shown = self.wait_for(PROMPT)
        self.type(*keys)
        return shown

    def exit_code(self) -> int:
        return self.process.wait(TIMEOUT_S)


@pytest.fixture
def environment(daemon: Any, short_directory: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return (
        kept
        | {"TPID_SOCKET": str(daemon.path), "XDG_STATE_HOME": str(short_directory)}
        | {
            "TERM": "xterm",
            "PROMPT_TOOLKIT_NO_CPR": "1",  # nobody here would answer where the cursor is
        }
    )


@pytest.fixture
def tpictl(environment: dict[str, str]) -> Iterator[Callable[..., Terminal]]:
    """`tpictl(*arguments)` runs it on a terminal of its own."""
    opened: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        opened.append(Terminal(environment, *arguments))
        return opened[-1]

    yield start
    for one in opened:
        one.process.kill()
        one.process.communicate()


@pytest.fixture
def terminal(tpictl: Callable[..., Terminal]) -> Terminal:
    return tpictl("chat")


def _messages(daemon: Any) -> list[dict[str, str]]:
    messages: list[dict[str, str]] = daemon.body("/v1/chat/completions")["messages"]
    return messages


def test_plan_answer_numbers_and_history(daemon: Any, terminal: Terminal) -> None:
    terminal.wait_for(b"smollm2-135m on 2 devices")
    terminal.say(b"Hi", ENTER)
    terminal.wait_for("Hellö, world.".encode())
    terminal.wait_for(b"23.8 tok/s")
    terminal.say(b"one\\", ENTER, b"two", ALT_ENTER, b"three", ENTER)
    terminal.wait_for(b"23.8 tok/s")
    assert _messages(daemon) == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hellö, world."},
        {"role": "user", "content": "one\ntwo\nthree"},
    ]
    terminal.say(CTRL_D)
    assert terminal.exit_code() == 0


def test_ctrl_c_stops_the_answer_and_not_the_chat(daemon: Any, terminal: Terminal) -> None:
    daemon.hang_after = 2
    terminal.say(b"Hi", ENTER)
    terminal.wait_for("Hellö, ".encode())
    assert daemon.hanging.wait(TIMEOUT_S)
    terminal.type(CTRL_C)
    terminal.wait_for(b"Stopped.")
    assert daemon.client_gone.wait(TIMEOUT_S)
    daemon.hang_after = None
    terminal.say(b"Go on", ENTER)
    terminal.wait_for(b"23.8 tok/s")
    assert _messages(daemon)[1:] == [
        {"role": "assistant", "content": "Hellö, "},
        {"role": "user", "content": "Go on"},
    ]
    terminal.say(b"half a line", CTRL_C)
    terminal.type(b"/nonsense", ENTER)
    terminal.wait_for(b"There is no /nonsense.")
    terminal.say(CTRL_C)
    assert terminal.exit_code() == 0


def test_ctrl_c_before_the_first_word(daemon: Any, terminal: Terminal) -> None:
    terminal.wait_for(b"on 2 devices")  # loaded
    daemon.hang_after = 0
    terminal.say(b"Hi", ENTER)
    assert daemon.hanging.wait(TIMEOUT_S)
    terminal.type(CTRL_C)
    terminal.wait_for(b"Stopped before the answer began")
    daemon.hang_after = None
    terminal.say(b"Hello", ENTER)
    terminal.wait_for(b"23.8 tok/s")
    assert _messages(daemon) == [{"role": "user", "content": "Hello"}]


def test_an_error_ends_the_answer_and_not_the_chat(daemon: Any, terminal: Terminal) -> None:
    daemon.fail_after = 1
    terminal.say(b"Hi", ENTER)
    terminal.wait_for(b"desktop is gone. Switch it on.")
    daemon.fail_after = None
    terminal.say(b"And now?", ENTER)
    terminal.wait_for(b"23.8 tok/s")
    assert _messages(daemon)[1] == {"role": "assistant", "content": "Hel"}


def test_commands(daemon: Any, terminal: Terminal) -> None:
    terminal.say(b"/sytsem x", ENTER)
    terminal.wait_for(b"Did you mean /system?")
    terminal.say(b"/system Be brief.", ENTER)
    terminal.wait_for(b"The system message is set.")
    terminal.say(b"/set temperature 0.2", ENTER)
    terminal.wait_for(b"temperature is 0.2.")
    terminal.say(b"/set temperature hot", ENTER)
    terminal.wait_for(b"temperature needs a number, not 'hot'.")
    terminal.say(b"/set", ENTER)
    terminal.wait_for(b"stop                 default")
    terminal.say(b"Hi", ENTER)
    terminal.wait_for(b"23.8 tok/s")
    terminal.say(b"/stats", ENTER)
    terminal.wait_for(b"30 of 48 (18-47)")
    terminal.wait_for(b"23.8 tok/s")
    terminal.say(b"/new", ENTER)
    terminal.wait_for(b"Forgotten.")
    terminal.say(b"/help", ENTER)
    terminal.wait_for(b"Ctrl-C stops an answer.")
    terminal.say(b"Again", ENTER)
    terminal.wait_for(b"23.8 tok/s")
    assert daemon.body("/v1/chat/completions")["temperature"] == 0.2
    assert _messages(daemon) == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Again"}]
    terminal.say(b"/exit", ENTER)
    assert terminal.exit_code() == 0


def test_a_new_plan_is_told(daemon: Any, terminal: Terminal) -> None:
    daemon.status["plan"] = {**daemon.plan, "term": 8, "ranks": daemon.plan["ranks"][:1]}
    terminal.say(b"Hi", ENTER)
    terminal.wait_for(b"New plan: smollm2-135m on 1 device")


def test_what_was_typed_is_kept_for_its_owner(terminal: Terminal, short_directory: Path) -> None:
    terminal.say(b"remember me", ENTER)
    terminal.wait_for(b"23.8 tok/s")
    history = short_directory / "tpid" / "chat_history"
    assert "remember me" in history.read_text()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


def test_model_output_cannot_command_the_terminal(daemon: Any, terminal: Terminal) -> None:
    daemon.pieces = ["a\x1b]0;title\x07", "b"]
    terminal.say(b"Hi", ENTER)
    assert "a\N{REPLACEMENT CHARACTER}]0;title\N{REPLACEMENT CHARACTER}b".encode() in terminal.wait_for(b"23.8 tok/s")


def test_no_stats(tpictl: Callable[..., Terminal]) -> None:
    opened = tpictl("chat", "--no-stats")
    assert b"KV groups" not in opened.say(b"Hi", ENTER)
    opened.wait_for("Hellö, world.".encode())
    assert b"tok/s" not in opened.say(CTRL_D)
    assert opened.exit_code() == 0


def test_json_wants_its_prompt_from_a_pipe(tpictl: Callable[..., Terminal]) -> None:
    opened = tpictl("chat", "--json")
    opened.wait_for(b'"message": "With --json the prompt comes on standard input."')
    assert opened.exit_code() == 1


def test_watching_the_cluster(daemon: Any, tpictl: Callable[..., Terminal]) -> None:
    opened = tpictl("status", "--watch")
    opened.wait_for(b"smollm2-135m on 2 devices")
    daemon.refusal = (500, b'{"error": {"code": "internal", "message": "Something is wrong."}}')
    opened.wait_for(b"Something is wrong.")
    opened.wait_for(b"The last that was known:")
    opened.type(CTRL_C)
    assert opened.exit_code() == 0

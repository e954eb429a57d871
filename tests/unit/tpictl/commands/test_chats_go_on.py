"""Chats that are kept, changed and gone on with, on a pseudo-terminal."""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.tpictl.commands.terminal import CTRL_C, CTRL_D, ENTER, Terminal

TO_LINE_START, DELETE_TO_END = b"\x01", b"\x0b"


@pytest.fixture
def chats(short_directory: Path) -> Path:
    return short_directory / "tpid" / "chats"


def _messages(daemon: Any) -> list[dict[str, str]]:
    messages: list[dict[str, str]] = daemon.body("/v1/chat/completions")["messages"]
    return messages


def test_a_chat_goes_on_another_day(daemon: Any, tpictl: Callable[..., Terminal], chats: Path) -> None:
    first = tpictl("chat", "--system", "Be brief.", "--temperature", "0.5")
    first.say(b"Hi", ENTER)
    first.wait_for("TTFT 431 ms")
    first.say(CTRL_D)
    assert first.exit_code() == 0
    (file,) = chats.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    second = tpictl("chat", "--continue")
    second.wait_for("The chat goes on after 1 answer.")
    second.say(b"More", ENTER)
    second.wait_for("TTFT 431 ms")
    assert daemon.body("/v1/chat/completions")["temperature"] == 0.5
    assert [message["content"] for message in _messages(daemon)] == ["Be brief.", "Hi", "Hellö, world.", "More"]
    second.say(CTRL_D)
    assert second.exit_code() == 0
    assert len(json.loads(file.read_text())["turns"]) == 2
    assert list(chats.iterdir()) == [file]


def test_nothing_to_go_on_with(tpictl: Callable[..., Terminal]) -> None:
    opened = tpictl("chat", "--continue")
    opened.wait_for("No chat is kept yet. Begin one: tpictl chat")
    assert opened.exit_code() == 1


def test_a_private_chat_leaves_nothing(tpictl: Callable[..., Terminal], short_directory: Path) -> None:
    opened = tpictl("chat", "--private")
    opened.say(b"secret", ENTER)
    opened.wait_for("TTFT 431 ms")
    opened.say(b"/save x", ENTER)
    opened.wait_for("This chat is private")
    opened.say(CTRL_D)
    assert opened.exit_code() == 0
    assert not (short_directory / "tpid").exists()


def test_retry_and_edit(daemon: Any, terminal: Terminal, chats: Path) -> None:
    terminal.say(b"/retry", ENTER)
    terminal.wait_for("Nothing has been said yet.")
    terminal.say(b"First", ENTER)
    terminal.wait_for("TTFT 431 ms")
    daemon.pieces = ["Another."]
    terminal.say(b"/retry", ENTER)
    terminal.wait_for("TTFT 431 ms", times=2)
    assert _messages(daemon) == [{"role": "user", "content": "First"}]
    terminal.say(b"/edit", ENTER)
    terminal.wait_for("> First", times=2)
    terminal.type(CTRL_C)
    terminal.wait_for("It stays as it was.")
    terminal.say(b"/edit", ENTER)
    terminal.wait_for("> First", times=3)
    terminal.type(b" of all", ENTER)
    terminal.wait_for("TTFT 431 ms", times=3)
    assert _messages(daemon) == [{"role": "user", "content": "First of all"}]
    daemon.fail_after = 0
    terminal.say(b"/retry", ENTER)
    terminal.wait_for("desktop is gone.")
    (file,) = chats.iterdir()
    assert [turn["answer"] for turn in json.loads(file.read_text())["turns"]] == ["Another."]
    daemon.fail_after = None
    terminal.say(b"Then", ENTER)
    terminal.wait_for("TTFT 431 ms", times=4)
    assert [message["content"] for message in _messages(daemon)] == ["First of all", "Another.", "Then"]


def test_save_load_and_clear(daemon: Any, terminal: Terminal, chats: Path) -> None:
    terminal.say(b"/save x", ENTER)
    terminal.wait_for("Nothing has been said yet.")
    terminal.say(b"About rivers", ENTER)
    terminal.wait_for("TTFT 431 ms")
    terminal.say(b"/save rivers", ENTER)
    terminal.wait_for("The chat is kept as rivers.")
    assert [path.name for path in chats.iterdir()] == ["rivers.json"]
    terminal.say(b"/clear", ENTER)
    terminal.wait_for("A new chat. The last one is kept: /load rivers")
    terminal.say(b"/load", ENTER)
    terminal.wait_for("rivers  About rivers")
    terminal.say(b"/load nothing", ENTER)
    terminal.wait_for("No chat is kept as nothing.")
    terminal.say(b"/load rivers", ENTER)
    terminal.wait_for("The chat goes on after 1 answer.")
    terminal.say(b"And lakes?", ENTER)
    terminal.wait_for("TTFT 431 ms", times=2)
    assert len(_messages(daemon)) == 3
    assert len(json.loads((chats / "rivers.json").read_text())["turns"]) == 2


def test_another_model(daemon: Any, terminal: Terminal) -> None:
    terminal.say(b"/model", ENTER)
    terminal.wait_for("smollm2-135m (this chat's)")
    terminal.say(b"/model other", ENTER)
    terminal.wait_for("The chat goes on with smollm2-135m on 2 devices")
    assert daemon.body("/tpid/load")["model"] == "other"
    terminal.say(b"Hi", ENTER)
    terminal.wait_for("TTFT 431 ms")
    assert daemon.body("/v1/chat/completions")["model"] == "other"


def test_files_by_path(daemon: Any, terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("the Rhine")
    (tmp_path / "cat.png").write_bytes(b"\x89PNG\r\n\x1a\n\xff")
    terminal.say(f"Where is @{tmp_path}/cat.png".encode(), ENTER)
    terminal.wait_for("write @@.")  # the last words: where lines break is by the length of the path
    assert "is an image. Models here read text." in " ".join(terminal.text().split())
    terminal.say(f"Where is @{tmp_path}/note.txt".encode(), ENTER)
    terminal.wait_for("TTFT 431 ms")
    assert "```\nthe Rhine\n```" in _messages(daemon)[0]["content"]

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tpictl.commands.conversation import Conversation, Prompt
from tpictl.commands.kept_chats import KeptChats
from tpictl.commands.sampling import Sampling
from tpid.errors import RequestError


@pytest.fixture
def conversation() -> Conversation:
    said = Conversation("m", Sampling(temperature=0.5, stop=("x",)), system="Be brief.")
    said.add(Prompt("Hi\nthere", "Hi\nthere and a file"), "Hello \ud800.")
    return said


@pytest.fixture
def kept(tmp_path: Path) -> KeptChats:
    return KeptChats(tmp_path / "chats")


def test_what_was_kept_comes_back(kept: KeptChats, conversation: Conversation) -> None:
    kept.save("holiday", conversation)
    assert kept.load("holiday").conversation() == conversation
    assert kept.load("holiday").title == "Hi there"


def test_files_are_for_their_owner_and_nothing_is_left_beside(
    kept: KeptChats, conversation: Conversation, tmp_path: Path
) -> None:
    kept.save("holiday", conversation)
    kept.save("holiday", conversation)
    assert [path.name for path in (tmp_path / "chats").iterdir()] == ["holiday.json"]
    assert stat.S_IMODE((tmp_path / "chats" / "holiday.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "chats").stat().st_mode) == 0o700


def test_the_newest_comes_first(kept: KeptChats, conversation: Conversation, tmp_path: Path) -> None:
    assert kept.names() == []
    for seconds, name in enumerate(["b", "c", "a"]):
        kept.save(name, conversation)
        os.utime(tmp_path / "chats" / f"{name}.json", (seconds, seconds))
    assert kept.names() == ["a", "c", "b"]


def test_a_name_is_given_once(kept: KeptChats, conversation: Conversation) -> None:
    kept.save(kept.new_name(), conversation)
    kept.rename(kept.names()[0], "mine")
    assert kept.names() == ["mine"]
    kept.save("other", conversation)
    with pytest.raises(RequestError, match="kept as mine already"):
        kept.rename("other", "mine")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 101, "ä"])
def test_names_cannot_be_paths(kept: KeptChats, conversation: Conversation, name: str) -> None:
    with pytest.raises(RequestError, match="cannot be the name"):
        kept.save(name, conversation)
    with pytest.raises(RequestError, match="cannot be the name"):
        kept.load(name)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{}", b"[" * 10**5, b'{"format": 1, "turns": 3}'])
def test_what_is_no_chat(kept: KeptChats, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "chats").mkdir()
    (tmp_path / "chats" / "x.json").write_bytes(content)
    with pytest.raises(RequestError, match="is no chat that tpictl has kept"):
        kept.load("x")


def test_what_cannot_be_read_or_written(
    kept: KeptChats, conversation: Conversation, tmp_path: Path, monkeypatch: Any
) -> None:
    with pytest.raises(RequestError, match="No chat is kept as x"):
        kept.load("x")
    kept.save("x", conversation)
    path = tmp_path / "chats" / "x.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(RequestError, match="another version"):
        kept.load("x")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    before = path.read_bytes()
    with pytest.raises(RequestError, match="No space left on device"):
        kept.save("x", conversation)
    assert path.read_bytes() == before
    assert list((tmp_path / "chats").iterdir()) == [path]

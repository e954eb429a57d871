from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from tpictl.commands.line_editor import _Completer


def _completed(typed: str) -> list[str]:
    """What the line can become."""
    found = _Completer().get_completions(Document(typed), CompleteEvent(completion_requested=True))
    return [typed[: len(typed) + item.start_position] + item.text for item in found]


def test_commands() -> None:
    assert _completed("/re") == ["/retry"]
    assert _completed("/s") == ["/save", "/set", "/stats", "/system"]
    assert _completed("tell me /re") == []


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "novel.md").touch()
    monkeypatch.chdir(tmp_path)
    assert _completed("compare @no") == ["compare @notes.txt", "compare @novel.md"]
    assert _completed(f"see @{tmp_path}/not") == [f"see @{tmp_path}/notes.txt"]
    assert _completed("compare no") == []

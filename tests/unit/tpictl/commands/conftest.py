"""tpictl on terminals of the tests' own."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.tpictl.commands.terminal import Terminal


@pytest.fixture
def environment(daemon: Any, short_directory: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return kept | {
        "TPID_SOCKET": str(daemon.path),
        "XDG_STATE_HOME": str(short_directory),
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "PROMPT_TOOLKIT_NO_CPR": "1",  # nobody here would answer where the cursor is
    }


@pytest.fixture
def tpictl(environment: dict[str, str]) -> Iterator[Callable[..., Terminal]]:
    """`tpictl(*arguments, columns=80, rows=24, variables={})` runs it on a terminal of its own."""
    opened: list[Terminal] = []

    def start(*arguments: str, variables: dict[str, str] | None = None, **size: int) -> Terminal:
        opened.append(Terminal(environment | (variables or {}), *arguments, **size))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


@pytest.fixture
def terminal(tpictl: Callable[..., Terminal]) -> Terminal:
    return tpictl("chat")

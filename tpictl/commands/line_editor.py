"""The line editor of the chat, and the file that remembers what was typed."""

import contextlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter, WordCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import ANSI
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output
from prompt_toolkit.shortcuts import CompleteStyle

from tpictl.commands.slash import NAMES


class Reader(Protocol):
    def read(self) -> str | None:
        """What was typed; None at the end. Ctrl-C drops a line that was begun; at an empty one it asks, then leaves."""

    def edit(self, text: str) -> str | None:
        """What has become of `text`; None after Ctrl-C."""


class PlainReader:
    """For terminals that only go forward: the terminal's own line editing."""

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask

    def read(self) -> str | None:
        asked = False
        while True:
            try:
                return self._lines()
            except KeyboardInterrupt:
                print()
                if asked:
                    return None
                self._ask()
                asked = True
            except EOFError:
                return None

    def edit(self, text: str) -> str | None:
        """Such a terminal shows what there was; it is typed anew."""
        print(text)
        try:
            return self._lines()
        except (KeyboardInterrupt, EOFError):
            return None

    def _lines(self) -> str:
        lines = [input("> ")]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(input("  "))
        return "\n".join(lines)


class LineEditor:
    def __init__(self, history: Path | None, ask: Callable[[], None]) -> None:
        """`ask` tells that the next Ctrl-C leaves; without `history` nothing that is typed is kept."""
        self._ask = ask
        self._session: PromptSession[str] = PromptSession(
            message=ANSI("\x1b[1;32m> \x1b[0m"),
            prompt_continuation="  ",
            multiline=True,
            history=InMemoryHistory() if history is None else _open_history(history),
            key_bindings=_bindings(),
            completer=_Completer(),
            complete_style=CompleteStyle.READLINE_LIKE,
            complete_while_typing=False,
            # An answer may go to a file; what is typed belongs to the terminal.
            output=create_output(sys.stdout if sys.stdout.isatty() else sys.stderr),
        )

    def read(self) -> str | None:
        asked = False
        while True:
            try:
                return self._session.prompt()
            except KeyboardInterrupt:
                is_empty = not self._session.default_buffer.text.strip()
                if is_empty and asked:
                    return None
                if is_empty:
                    self._ask()
                asked = is_empty
            except EOFError:
                return None

    def edit(self, text: str) -> str | None:
        try:
            return self._session.prompt(default=text)
        except (KeyboardInterrupt, EOFError):
            return None


class _Completer(Completer):
    """Commands at the beginning of a line, paths behind an `@`."""

    def __init__(self) -> None:
        self._commands = WordCompleter(NAMES, sentence=True)
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        word = document.get_word_before_cursor(WORD=True)
        if word.startswith("@"):
            path = Document(word[1:])
            return self._paths.get_completions(path, complete_event)
        return self._commands.get_completions(document, complete_event)


def _bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.is_cursor_at_the_end and buffer.text.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    @bindings.add("escape", "c-j")  # as the terminal gives it when it was typed ahead
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    return bindings


class _KeptHistory(FileHistory):
    """A full disk is no reason to end a chat."""

    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError):
            super().store_string(string)


def _open_history(path: Path) -> History:
    """In the file, for its owner's eyes only; in memory where that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        with path.open("ab"):
            pass
    except OSError:
        return InMemoryHistory()
    return _KeptHistory(str(path))

"""The line editor of the chat, and the file that remembers what was typed."""

import contextlib
import sys
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.formatted_text import ANSI
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output
from prompt_toolkit.shortcuts import CompleteStyle

from tpictl.commands.slash import COMMANDS


class LineEditor:
    def __init__(self, history: Path) -> None:
        self._session: PromptSession[str] = PromptSession(
            message=ANSI("\x1b[1;32m> \x1b[0m"),
            prompt_continuation="  ",
            multiline=True,
            history=_open_history(history),
            key_bindings=_bindings(),
            completer=WordCompleter(list(COMMANDS), sentence=True),
            complete_style=CompleteStyle.READLINE_LIKE,
            complete_while_typing=False,
            # An answer may go to a file; what is typed belongs to the terminal.
            output=create_output(sys.stdout if sys.stdout.isatty() else sys.stderr),
        )

    def read(self) -> str | None:
        """What was typed; None at the end. Ctrl-C drops a line that was begun."""
        while True:
            try:
                return self._session.prompt()
            except KeyboardInterrupt:
                if not self._session.default_buffer.text.strip():
                    return None
            except EOFError:
                return None


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

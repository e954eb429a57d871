"""The consoles that tables, bars and notes are printed on, and a keyboard that shows nothing of what is typed."""

import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """A reader that went away is the matter of `tpictl.outcome`; rich would leave with its own exit code."""
        raise  # noqa: PLE0704 (rich calls this while it handles the BrokenPipeError)


def stdout_console() -> Console:
    return _Console(highlight=False)


def stderr_console() -> Console:
    """For what is said beside the result."""
    return _Console(stderr=True, highlight=False)


def can_be_repainted(console: Console) -> bool:
    """Whether lines that were written can be written over."""
    return console.is_terminal and not console.is_dumb_terminal


@contextmanager
def unseen_keys() -> Iterator[None]:
    """Keys wait, unseen and one by one, for whoever reads next; Ctrl-C is a signal as ever."""
    try:
        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
    except (OSError, ValueError, termios.error):  # no terminal, or none any more
        yield
        return
    quiet = list(before)
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(descriptor, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)

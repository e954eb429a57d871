"""The consoles that tables, bars and notes are printed on."""

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

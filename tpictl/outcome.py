"""How a command ends: one sentence for an error, a quiet end for Ctrl-C and for a reader that went away."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from tpictl.errors import describe
from tpictl.printable import printable_line
from tpid.errors import TpidError

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE


@contextmanager
def reporting(*, as_json: bool) -> Iterator[None]:
    """Errors become their exit code, on stderr or, `as_json`, on stdout. Raises typer.Exit."""
    try:
        try:
            yield
        except TpidError as error:
            _tell(error, as_json=as_json)
            raise typer.Exit(EXIT_ERROR) from None
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        _give_up_stdout()
        raise typer.Exit(EXIT_BROKEN_PIPE) from None
    except OSError as error:
        _give_up_stdout()
        what = f"{error.filename}: " if error.filename is not None else "The output cannot be written: "
        _complain(f"{printable_line(what)}{error.strerror or error}.")
        raise typer.Exit(EXIT_ERROR) from None


def open_standard_streams() -> None:
    """Where the caller has closed one, nothing comes from it and nothing is lost in it: not the next file opened."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 it stays open


def _give_up_stdout() -> None:
    """What is still buffered has no reader; the interpreter would complain when it flushes it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(data: object) -> None:
    """One object, one line: what scripts read."""
    print(json.dumps(data), flush=True)


def _tell(error: TpidError, *, as_json: bool) -> None:
    if as_json:
        print_json({"error": describe(error)})
    else:
        _complain(printable_line(str(error)))


def _complain(text: str) -> None:
    """On stderr; where that is full too, the exit code is all that can be said."""
    with contextlib.suppress(OSError):
        print(f"tpictl: {text}", file=sys.stderr, flush=True)

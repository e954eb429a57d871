"""Where a pulled pack came from, which it keeps; and where a pull keeps what it has, until it is done."""

import contextlib
import hashlib
import json
from pathlib import Path

from tpid.errors import PackError
from tpid.model.weights import Format
from tpid.pack.reader import Pack
from tpid.pack.staging import write_whole

SOURCE_NAME = "source.json"
MAX_SOURCE_BYTES = 1 << 14


def pulled_before(models_dir: Path, reference: str, format: Format | None) -> Pack | None:
    """The pack that this very reference has become. Nothing is asked of its source."""
    wanted = _source(reference, format)
    for path in sorted(models_dir.glob(f"[a-z0-9]*/{SOURCE_NAME}")):
        with contextlib.suppress(PackError):
            if _read(path) == wanted:
                return Pack(path.parent)
    return None


def remember_source(pack: Pack, reference: str, format: Format | None) -> None:
    """For `pulled_before`; a pack without it is as good."""
    with contextlib.suppress(OSError):
        write_whole(pack.directory / SOURCE_NAME, json.dumps(_source(reference, format), indent=1).encode())


def source_of(pack: Pack) -> str | None:
    """What it was pulled as, if it was."""
    reference = _read(pack.directory / SOURCE_NAME).get("reference")
    return reference if isinstance(reference, str) else None


def fetch_directory(models_dir: Path, reference: str) -> Path:
    """Where the files of a pull lie while it goes on, or when it was interrupted."""
    return models_dir / f".fetch-{hashlib.sha256(reference.encode()).hexdigest()[:16]}"


def _source(reference: str, format: Format | None) -> dict[str, object]:
    return {"reference": reference, "format": None if format is None else str(format)}


def _read(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(MAX_SOURCE_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}

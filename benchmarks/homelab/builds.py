"""Programs in C that are built on first use, into a folder that git ignores."""

import hashlib
import os
import shutil
from pathlib import Path

from homelab.programs import LabError, run

CACHE = Path(__file__).parents[2] / ".bench" / "homelab"
SOURCES = Path(__file__).parent


def compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def built(source_name: str, *flags: str) -> Path:
    """The program made of a source in this package; built anew when that changes. Raises LabError."""
    source = SOURCES / source_name
    digest = hashlib.sha256(source.read_bytes() + " ".join(flags).encode()).hexdigest()[:16]
    program = CACHE / f"{source.stem}-{digest}"
    if not program.exists():
        found = compiler()
        if found is None:
            raise LabError(f"{source_name} must be built, and there is no C compiler.")
        CACHE.mkdir(parents=True, exist_ok=True)
        aside = program.with_suffix(f".{os.getpid()}")
        run(found, "-O2", *flags, "-o", aside, source)
        aside.replace(program)
    return program

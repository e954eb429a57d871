"""Packs that go, and packs that get a second name."""

import contextlib
import os
import shutil
from pathlib import Path

from tpid.errors import DiskFullError, ModelNotFoundError, PackError
from tpid.pack.held import held
from tpid.pack.reader import Pack
from tpid.pack.staging import FREE_SPACE_HINT, is_full
from tpid.pack.store import PackStore

_PERMISSIONS = "Check the permissions of that directory."


def remove_pack(store: PackStore, name: str) -> int:
    """Gives the bytes that were freed; a damaged pack goes too, and what an interrupted import has left of it.

    Raises ModelNotFoundError, or PackError where it is being imported or cannot be removed.
    """
    path = store.path(name)
    partial = path.with_name(f".{name}.partial")
    if not path.is_dir() and not partial.is_dir():
        store.open(name)  # says what there is
        raise ModelNotFoundError(f"This device has no model {name}.")
    return sum(remove_directory(each) for each in (partial, path) if each.is_dir())


def remove_directory(path: Path) -> int:
    """Gives the bytes that were freed. Raises PackError where an import or a pull holds it, or it cannot be removed."""
    size_bytes = sum(file.lstat().st_blocks * 512 for file in path.rglob("*") if file.is_file())
    aside = path.with_name(f".{path.name.lstrip('.')}.removed")
    busy = PackError(f"An import writes {path} at this moment.", hint="Wait until it has ended.")
    try:
        with held(path, busy):
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)  # from here on nobody finds it
        shutil.rmtree(aside)
    except OSError as error:
        raise PackError(f"{path} cannot be removed: {error.strerror}.", hint=_PERMISSIONS) from error
    return size_bytes


def copy_pack(store: PackStore, name: str, new_name: str) -> Pack:
    """The same pack under a second name; where the disk can, both share their bytes.

    Raises ModelNotFoundError, PackError where the new name is taken, or DiskFullError.
    """
    pack, target = store.open(name), store.path(new_name)
    if os.path.lexists(target):
        raise PackError(f"This device has a model {new_name} already.", hint="Give another name, or tpictl rm it.")
    beside = target.with_name(f".{new_name}.copy")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(pack.directory, beside, copy_function=_link_or_copy)
        beside.rename(target)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        if is_full(error):
            raise DiskFullError(f"The disk of {store.directory} is full.", hint=FREE_SPACE_HINT) from error
        raise PackError(f"{target} cannot be written: {error.strerror or error}.", hint=_PERMISSIONS) from error
    return Pack(target)


def _link_or_copy(source: str, target: str) -> None:
    """Weights never change once they are a pack, so a link is as good; what an owner may edit is copied."""
    if source.endswith(".safetensors"):
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copy2(source, target)

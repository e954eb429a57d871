"""Where a pack grows before it is one: a hidden directory beside it, held by one import, published by a rename."""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tpid.errors import DiskFullError, PackError, TpidError

FREE_SPACE_HINT = "Free some space, or keep models elsewhere (models_dir in the configuration)."

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def staging_for(target: Path, *, replace: bool) -> Iterator[Path]:
    """The staging directory of `target`, locked; removed after an error, kept after an interruption.

    Raises PackError where `target` may not be replaced or another import holds the directory, and turns an
    OSError of the body into DiskFullError or PackError.
    """
    _check_vacant(target, replace)
    staging = target.with_name(f".{target.name}.partial")
    lock = _lock(staging)
    try:
        _put_back(target)
        _check_vacant(target, replace)  # another import may have ended since
        yield staging
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise _translated(error, staging) from error
    except Exception:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def publish(staging: Path, target: Path) -> None:
    """Make `staging` the pack `target`; what was there is gone only when the new one is in its place."""
    for directory in (*(path for path in staging.iterdir() if path.is_dir()), staging):
        _sync_directory(directory)
    if os.path.lexists(target):
        target.rename(_aside(target))
    try:
        staging.rename(target)
    except OSError:
        _put_back(target)
        raise
    _remove(_aside(target))
    with contextlib.suppress(OSError):  # the pack is there; at worst a power cut takes back the rename
        _sync_directory(target.parent)


def write_whole(path: Path, data: bytes) -> None:
    """Either the old content or the new one, whatever happens."""
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def is_full(error: OSError) -> bool:
    """No space, or no quota, left."""
    return error.errno in _FULL


def disk_full(directory: Path, what: str) -> DiskFullError:
    message = f"The disk of {directory} became full during {what}; what was written is removed."
    return DiskFullError(message, hint=FREE_SPACE_HINT)


def _check_vacant(target: Path, replace: bool) -> None:
    if os.path.lexists(target) and not replace:
        raise PackError(f"{target} is there already.", hint="Give another --name, or --replace it.")


def _lock(staging: Path) -> int:
    """An open directory, locked until it is closed."""
    lock, held = -1, False
    try:
        staging.mkdir(parents=True, exist_ok=True)
        lock = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # An import that ended meanwhile has renamed or removed what was just locked.
        held = os.path.samestat(os.fstat(lock), staging.stat())
    except (BlockingIOError, FileNotFoundError):
        held = False
    except OSError as error:
        with contextlib.suppress(OSError):
            staging.rmdir()  # only where it is new and empty
        raise _translated(error, staging) from error
    finally:
        if lock >= 0 and not held:
            os.close(lock)
    if not held:
        raise PackError(f"Another import writes {staging} at this moment.", hint="Wait until it has ended.")
    return lock


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _put_back(target: Path) -> None:
    """What a replacement that was cut short left behind."""
    old = _aside(target)
    if os.path.lexists(target):
        _remove(old)
    elif os.path.lexists(old):
        old.rename(target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _translated(error: OSError, staging: Path) -> TpidError:
    if is_full(error):
        return disk_full(staging.parent, "the import")
    return PackError(
        f"The import cannot write {error.filename or staging}: {error.strerror or error}.",
        hint="Check that disk and its permissions, or keep models elsewhere (models_dir in the configuration).",
    )

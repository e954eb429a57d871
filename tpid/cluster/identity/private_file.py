"""Small files that only this user may read, each written whole or not at all.

A file that others may read is refused, not mended: what was in it may be known already.
"""

import os
import secrets
import stat
from pathlib import Path

from tpid.errors import ConfigError


def read_private(path: Path, *, what: str, max_bytes: int) -> bytes:
    """The file's bytes; `what` names it in the errors.

    Raises FileNotFoundError; ConfigError where others may read or write it, where it is larger than `max_bytes`, and
    where it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            _check_mode(path, os.fstat(descriptor), what)
            content = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _not_kept(path, what, error) from error
    if len(content) > max_bytes:
        raise ConfigError(
            f"{path} is larger than {what} can be, {max_bytes} bytes.", hint="Restore it from a backup, or delete it."
        )
    return content


def create_private(path: Path, content: bytes, *, what: str) -> None:
    """Write a file that is not there yet; one that another process has made meanwhile stays. Raises ConfigError."""
    try:
        aside = _write_aside(path, content)
        try:
            os.link(aside, path)  # unlike a rename, never over a file that is there
        except FileExistsError:
            return
        finally:
            aside.unlink()
        _sync_directory(path.parent)
    except OSError as error:
        raise _not_kept(path, what, error) from error


def replace_private(path: Path, content: bytes, *, what: str) -> None:
    """Write a file in the place of the one that is there: a reader sees the old or the new one. Raises ConfigError."""
    try:
        aside = _write_aside(path, content)
        try:
            aside.replace(path)
        except OSError:
            aside.unlink()
            raise
        _sync_directory(path.parent)
    except OSError as error:
        raise _not_kept(path, what, error) from error


def _check_mode(path: Path, status: os.stat_result, what: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path} is no file, and should hold {what}.", hint="Give tpid a state directory of its own.")
    if status.st_uid not in (os.geteuid(), 0):
        raise ConfigError(
            f"{path}, {what}, belongs to another user.", hint=f"Run tpid as that user, or `chown` {path}."
        )
    if status.st_mode & 0o077:
        raise ConfigError(
            f"{path}, {what}, is open to other users of this machine (mode {stat.S_IMODE(status.st_mode):04o}).",
            hint=f"If nobody else has read it: chmod 600 {path}. Otherwise delete it, and pair this device anew.",
        )


def _write_aside(path: Path, content: bytes) -> Path:
    """The content on disk, under a name that nobody looks for."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        aside.unlink()
        raise
    return aside


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _not_kept(path: Path, what: str, error: OSError) -> ConfigError:
    return ConfigError(
        f"{path}, {what}, cannot be read or written: {error.strerror or error}.",
        hint="Give tpid a state directory that it may write.",
    )

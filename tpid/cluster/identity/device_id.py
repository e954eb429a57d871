"""Which device this is: 128 random bits, made once, kept in the state directory.

file        what happens
----------  --------------------------------------------------------------
missing     a new id is written aside, then linked into place, mode 0600
sound       its id
damaged     ConfigError: a new id would make this a stranger to the others
"""

import re
import secrets
from pathlib import Path

from tpid.cluster.identity.private_file import create_private
from tpid.device import DeviceId
from tpid.errors import ConfigError

FILE_NAME = "device-id"

_PATTERN = re.compile(r"[0-9a-f]{32}")
_MAX_FILE_BYTES = 64


def parse_device_id(text: str) -> DeviceId | None:
    """The id, or None if `text` is none."""
    return DeviceId(text) if _PATTERN.fullmatch(text) else None


def load_or_create_device_id(state_dir: Path) -> DeviceId:
    """Raises ConfigError for a damaged file and for a directory that cannot be used."""
    path = state_dir / FILE_NAME
    try:
        try:
            return _load(path)
        except FileNotFoundError:
            create_private(path, secrets.token_hex(16).encode("ascii") + b"\n", what="the id of this device")
            return _load(path)  # not what was written: another process may have been first
    except OSError as error:
        raise ConfigError(
            f"The id of this device cannot be kept in {path}: {error.strerror or error}.",
            hint="Give tpid a state directory that it may write.",
        ) from error


def _load(path: Path) -> DeviceId:
    with path.open("rb") as file:
        content = file.read(_MAX_FILE_BYTES)
    device_id = parse_device_id(content.decode("ascii", "replace").strip())
    if device_id is None:
        raise ConfigError(
            f"{path} does not hold the id of this device: 32 hexadecimal digits.",
            hint="Restore it from a backup, or delete it: the device then joins as a new one.",
        )
    return device_id

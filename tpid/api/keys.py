"""Keys for the API beyond this machine. What is kept of one is its digest: who reads the file cannot use it."""

import hashlib
import hmac
import json
import re
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tpid.cluster.identity.private_file import read_private, replace_private
from tpid.errors import ConfigError, RequestError

FILE_NAME = "api_keys.json"
MAX_KEYS = 64
_MAX_BYTES = 1 << 16
_WHAT = "the list of API keys"
_PREFIX = "tpid-"
_KEY_BYTES = 32  # random, so one round of SHA-256 is enough: there is nothing to guess
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class ApiKey:
    name: str
    sha256: str  # of the key, in hex
    created_s: int  # Unix time


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    keys: list[ApiKey]


class ApiKeys:
    """All keys of a device. One process changes them: the daemon."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError where the file is there and cannot be used."""
        self._path = path
        self._keys = _load(path)

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        return tuple(self._keys.values())

    def create(self, name: str) -> str:
        """A new key, which is told this once. Raises RequestError, and ConfigError where it cannot be kept."""
        if _NAME.fullmatch(name) is None:
            raise RequestError(
                f"{name!r} cannot be a key's name.", hint="Use up to 64 letters, digits, dots, dashes and underscores."
            )
        if name in self._keys:
            raise RequestError(f"There is a key {name} already.", hint="Choose another name, or revoke it first.")
        if len(self._keys) >= MAX_KEYS:
            raise RequestError(f"There are {MAX_KEYS} keys already.", hint="Revoke one that is not used any more.")
        key = _PREFIX + secrets.token_urlsafe(_KEY_BYTES)
        self._keep(self._keys | {name: ApiKey(name, _digest(key), int(time.time()))})
        return key

    def revoke(self, name: str) -> None:
        """From now on nobody gets in with it. Raises RequestError, and ConfigError where that cannot be kept."""
        if name not in self._keys:
            names = ", ".join(self._keys) or "none"
            raise RequestError(f"There is no key {name[:64]!r}.", hint=f"There are: {names}.")
        self._keep({other: key for other, key in self._keys.items() if other != name})

    def holds(self, key: str) -> bool:
        digest = _digest(key)
        return any(hmac.compare_digest(known.sha256, digest) for known in self._keys.values())

    def _keep(self, keys: dict[str, ApiKey]) -> None:
        content = json.dumps({"keys": [asdict(key) for key in keys.values()]}, indent=1).encode()
        replace_private(self._path, content, what=_WHAT)
        self._keys = keys


def _load(path: Path) -> dict[str, ApiKey]:
    try:
        content = read_private(path, what=_WHAT, max_bytes=_MAX_BYTES)
    except FileNotFoundError:
        return {}
    try:
        keys = _File.model_validate_json(content).keys
    except ValidationError as error:
        raise ConfigError(
            f"{path}, {_WHAT}, is damaged.", hint="Restore it from a backup, or delete it and create keys anew."
        ) from error
    return {key.name: key for key in keys}


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()

"""Chats that are kept: one file each, for its owner's eyes only, written whole or not at all."""

import json
import os
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tpictl.client.decode import decode
from tpictl.commands.conversation import Conversation, Turn
from tpictl.commands.sampling import Sampling
from tpictl.printable import printable_line
from tpid.errors import RemoteProtocolError, RequestError

FORMAT: Final = 1
MAX_CHAT_BYTES: Final = 64 << 20
_SUFFIX: Final = ".json"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MAX_TITLE_CHARS: Final = 60


@dataclass(frozen=True, slots=True)
class KeptChat:
    """What the file of a chat holds."""

    format: int
    model: str
    system: str | None
    sampling: Sampling
    turns: tuple[Turn, ...]

    @property
    def title(self) -> str:
        """The beginning of the first prompt."""
        first = " ".join(self.turns[0].prompt.typed.split()) if self.turns else ""
        return printable_line(first if len(first) <= _MAX_TITLE_CHARS else first[: _MAX_TITLE_CHARS - 1] + "…")

    def conversation(self) -> Conversation:
        return Conversation(self.model, self.sampling, self.system, list(self.turns))


class KeptChats:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def new_name(self) -> str:
        """By the time at which a chat begins."""
        return f"{time.strftime('%Y-%m-%d-%H%M%S')}-{secrets.token_hex(2)}"

    def names(self) -> list[str]:
        """The one that was written last comes first."""
        try:
            found = [(path.stat().st_mtime_ns, path.stem) for path in self._directory.glob(f"*{_SUFFIX}")]
        except OSError:
            return []
        return [name for _, name in sorted(found, reverse=True) if _NAME.fullmatch(name)]

    def load(self, name: str) -> KeptChat:
        """Raises RequestError."""
        path = self._path(name)
        try:
            with path.open("rb") as file:
                data = file.read(MAX_CHAT_BYTES + 1)
        except FileNotFoundError:
            raise RequestError(f"No chat is kept as {name}.", hint="/load lists the chats that are.") from None
        except OSError as error:
            raise RequestError(f"The chat {path} cannot be read: {error.strerror or error}.") from None
        try:
            chat = decode(KeptChat, json.loads(data) if len(data) <= MAX_CHAT_BYTES else None)
        except (ValueError, RecursionError, RemoteProtocolError):
            raise RequestError(f"{path} is no chat that tpictl has kept.", hint="Delete it, or name another.") from None
        if chat.format != FORMAT:
            raise RequestError(f"{path} was kept by another version of tpictl.", hint="Upgrade tpictl.")
        return chat

    def save(self, name: str, conversation: Conversation) -> None:
        """Raises RequestError."""
        path = self._path(name)
        turns = tuple(conversation.turns)
        chat = KeptChat(FORMAT, conversation.model, conversation.system, conversation.sampling, turns)
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_whole(path, asdict(chat))
        except OSError as error:
            raise RequestError(
                f"The chat cannot be kept in {path}: {error.strerror or error}.",
                hint="Make room there; or leave it out: tpictl chat --private.",
            ) from None

    def rename(self, old: str, new: str) -> None:
        """Raises RequestError; a chat that is there under the new name stays as it is."""
        path, target = self._path(old), self._path(new)
        if target.exists():
            raise RequestError(f"Another chat is kept as {new} already.", hint="Take another name.")
        try:
            path.rename(target)
        except FileNotFoundError:
            return
        except OSError as error:
            raise RequestError(f"The chat cannot be kept in {target}: {error.strerror or error}.") from None

    def _path(self, name: str) -> Path:
        """Raises RequestError."""
        if not _NAME.fullmatch(name):
            raise RequestError(
                f"{name!r} cannot be the name of a chat.", hint="Use letters, digits, and . _ - between them."
            )
        return self._directory / f"{name}{_SUFFIX}"


def _write_whole(path: Path, data: Mapping[str, object]) -> None:
    """Raises OSError."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(data, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise

"""Calls of tools in an answer, found while its text comes in pieces of any size."""

import json
import secrets
import string
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from tpid.model.tool_format import CALL_BEGIN, CALL_END, MISTRAL_MARK, ToolFormat

_ID_CHARS = 9  # letters and digits: what Mistral's templates ask of an id
_ALPHABET = string.ascii_letters + string.digits


def new_call_id() -> str:
    """For a call that has none yet."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_ID_CHARS))


@dataclass(frozen=True, slots=True)
class ToolCall:
    name: str
    arguments: str  # JSON
    id: str = field(default_factory=new_call_id)


Piece: TypeAlias = str | ToolCall


class ToolCallParser(Protocol):
    """One for each answer. What is no call comes out as it went in, but for blanks around calls."""

    def push(self, text: str) -> list[Piece]: ...

    def finish(self) -> list[Piece]:
        """The rest, when no more text comes."""
        ...


def parser_of(format: ToolFormat, names: Collection[str]) -> ToolCallParser:
    """`names`: of the tools that there are."""
    match format:
        case ToolFormat.BARE:
            return _Bare(names)
        case ToolFormat.LISTED:
            return _Listed()
        case _:
            return _Tagged()


class _Tagged:
    """Text, and between it `<tool_call>` … `</tool_call>`."""

    def __init__(self) -> None:
        self._held = ""  # what may be the start of a tag, and blanks that a call would swallow
        self._in_call = False
        self._n_calls = 0

    def push(self, text: str) -> list[Piece]:
        self._held += text
        pieces: list[Piece] = []
        while True:
            mark = CALL_END if self._in_call else CALL_BEGIN
            before, found, after = self._held.partition(mark)
            if not found:
                break
            if self._in_call:
                pieces += self._called(before)
            elif before.strip():
                pieces.append(before.rstrip())
            self._in_call = not self._in_call
            self._held = after
        if not self._in_call:
            kept = settled_chars(self._held, CALL_BEGIN)
            if kept:
                pieces.append(self._held[:kept])
                self._held = self._held[kept:]
        return pieces

    def finish(self) -> list[Piece]:
        rest, self._held = self._held, ""
        if self._in_call:  # cut short, or without its closing tag
            return list(self._called(rest))
        return [rest] if rest and not (self._n_calls and rest.isspace()) else []

    def _called(self, body: str) -> list[Piece]:
        call = _call(_parsed(body))
        if call is None:
            return [f"{CALL_BEGIN}{body}{CALL_END if body.endswith(chr(10)) else ''}"]
        self._n_calls += 1
        return [call]


class _Bare:
    """The answer is one call and nothing else, or it is text."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._held: str | None = ""  # None: it is text

    def push(self, text: str) -> list[Piece]:
        if self._held is None:
            return [text] if text else []
        self._held += text
        start = self._held.lstrip()
        if not start or start.startswith("{"):
            return []
        text, self._held = self._held, None
        return [text]

    def finish(self) -> list[Piece]:
        if not self._held:
            return []
        call = _call(_parsed(self._held))
        return [call] if call is not None and call.name in self._names else [self._held]


class _Listed:
    """Text, then a mark with a list of calls to the end of the answer."""

    def __init__(self) -> None:
        self._held = ""
        self._in_calls = False

    def push(self, text: str) -> list[Piece]:
        self._held += text
        if self._in_calls:
            return []
        before, found, after = self._held.partition(MISTRAL_MARK)
        if found:
            self._in_calls = True
            self._held = after
            return [before.rstrip()] if before.strip() else []
        kept = settled_chars(self._held, MISTRAL_MARK)
        text, self._held = self._held[:kept], self._held[kept:]
        return [text] if text else []

    def finish(self) -> list[Piece]:
        if not self._in_calls:
            return [self._held] if self._held else []
        items = _parsed(self._held)
        calls = [_call(item) for item in (items if isinstance(items, list) else [items])]
        sound = [call for call in calls if call is not None]
        return list(sound) if sound and len(sound) == len(calls) else [f"{MISTRAL_MARK}{self._held}"]


def settled_chars(text: str, mark: str) -> int:
    """How much of `text` is certain not to belong to a mark, nor to blanks in front of one."""
    for length in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:length]):
            return len(text[:-length].rstrip())
    return len(text.rstrip())


def _parsed(text: str) -> Any:
    """None where it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _call(item: Any) -> ToolCall | None:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        return None
    arguments = item.get("arguments", item.get("parameters", {}))
    return ToolCall(
        item["name"], arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    )

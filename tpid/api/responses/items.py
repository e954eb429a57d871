"""The items of `input`: what has been said, called and answered so far, made into messages for a chat template."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag

from tpid.api.bodies import JsonBody
from tpid.api.fields import Opaque, shown
from tpid.api.tools import template_call

_TEXT_PARTS = ("input_text", "output_text", "text")
_ROLES = {"developer": "system"}  # chat templates have no developer


def _text(value: object) -> object:
    """The text of a string or of parts, which stand on lines of their own."""
    return "\n".join(_part_text(part) for part in value) if isinstance(value, list) else value


def _part_text(part: object) -> str:
    match part:
        case {"type": "refusal", "refusal": str(text)}:
            return text
        case {"type": str(kind), "text": str(text)} if kind in _TEXT_PARTS:
            return text
        case {"type": str(kind)} if kind not in (*_TEXT_PARTS, "refusal"):
            raise ValueError(f"a part of type {shown(kind)} cannot be read: models here take text only")
    raise ValueError("a part is an object with `type` and `text`")


_Text = Annotated[str, BeforeValidator(_text)]


class MessageItem(JsonBody):
    role: Literal["user", "assistant", "system", "developer"]
    content: _Text
    type: Literal["message"] = "message"
    id: Opaque = None
    status: Opaque = None
    phase: Opaque = None


class CallItem(JsonBody):
    """Of an earlier answer."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: Opaque = None
    status: Opaque = None


class ResultItem(JsonBody):
    """What a call has come to."""

    type: Literal["function_call_output"]
    call_id: str
    output: _Text
    id: Opaque = None
    name: Opaque = None
    status: Opaque = None


class ReasoningItem(JsonBody):
    """Passed over: what was thought for earlier answers is no part of a chat."""

    type: Literal["reasoning"]
    id: Opaque = None
    summary: Opaque = None
    content: Opaque = None
    encrypted_content: Opaque = None
    status: Opaque = None


Item: TypeAlias = MessageItem | CallItem | ResultItem | ReasoningItem


def _kind(item: object) -> str:
    return str(item.get("type", "message")) if isinstance(item, dict) else getattr(item, "type", "message")


def _items(value: object) -> object:
    """A string is a user's message."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    for item in value if isinstance(value, list) else []:
        if _kind(item) not in ("message", "function_call", "function_call_output", "reasoning"):
            raise ValueError(f"an item of type {shown(_kind(item))} cannot be read: there are text and functions only")
    return value


Input = Annotated[
    list[
        Annotated[
            Annotated[MessageItem, Tag("message")]
            | Annotated[CallItem, Tag("function_call")]
            | Annotated[ResultItem, Tag("function_call_output")]
            | Annotated[ReasoningItem, Tag("reasoning")],
            Discriminator(_kind),
        ]
    ],
    Field(min_length=1, fail_fast=True),
    BeforeValidator(_items),
]


def template_messages(items: Sequence[Item], instructions: str | None) -> list[dict[str, Any]]:
    """Calls that follow each other, and the text before them, are one message."""
    messages: list[dict[str, Any]] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    for item in items:
        match item:
            case MessageItem():
                messages.append({"role": _ROLES.get(item.role, item.role), "content": item.content})
            case CallItem():
                if not messages or messages[-1]["role"] != "assistant":
                    messages.append({"role": "assistant", "content": ""})
                messages[-1].setdefault("tool_calls", []).append(template_call(item.call_id, item.name, item.arguments))
            case ResultItem():
                messages.append({"role": "tool", "content": item.output, "tool_call_id": item.call_id})
    return messages

"""Messages as Ollama's clients send them, made into those that chat templates know."""

import contextlib
from collections import deque
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from tpid.api.bodies import JsonBody
from tpid.api.fields import Opaque, OrEmpty, only
from tpid.model.tool_calls import new_call_id

NO_IMAGES = only([], because="models here take text only")


class CalledFunction(JsonBody):
    name: str
    arguments: dict[str, Any]
    index: Opaque = None


class Call(JsonBody):
    """Of an earlier answer."""

    function: CalledFunction
    id: str | None = None
    type: Opaque = None


class Message(JsonBody):
    role: Literal["system", "user", "assistant", "tool"]
    content: OrEmpty = ""
    thinking: str | None = None
    images: Annotated[None, NO_IMAGES] = None
    tool_calls: Annotated[list[Call], Field(fail_fast=True)] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


def template_messages(messages: Sequence[Message]) -> list[dict[str, object]]:
    """Calls have ids in templates, and results tell them; clients of Ollama leave them out: then order tells."""
    unanswered: deque[str] = deque()
    return [_template_message(message, unanswered) for message in messages]


def _template_message(message: Message, unanswered: deque[str]) -> dict[str, object]:
    told: dict[str, object] = {"role": message.role, "content": message.content}
    if message.thinking:
        told["reasoning_content"] = message.thinking
    if message.tool_name is not None:
        told["name"] = message.tool_name
    if message.tool_calls:
        calls = [_template_call(call) for call in message.tool_calls]
        unanswered.extend(str(call["id"]) for call in calls)
        told["tool_calls"] = calls
    if message.role == "tool":
        id = message.tool_call_id or (unanswered[0] if unanswered else None)
        if id is not None:
            told["tool_call_id"] = id
            with contextlib.suppress(ValueError):
                unanswered.remove(id)
    return told


def _template_call(call: Call) -> dict[str, object]:
    function = {"name": call.function.name, "arguments": call.function.arguments}
    return {"id": call.id or new_call_id(), "type": "function", "function": function}

"""`tools` and `tool_choice`: what a model may call, or must."""

import contextlib
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from tpid.api.bodies import JsonBody
from tpid.api.fields import Opaque
from tpid.errors import RequestError
from tpid.model.tool_format import ToolUse

MAX_TOOLS = 128  # as OpenAI


FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class ToolFunction(JsonBody):
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None  # a JSON schema
    strict: Opaque = None  # what must be a call is one by schema in any case


class Tool(JsonBody):
    type: Literal["function"]
    function: ToolFunction


class NamedFunction(JsonBody):
    name: str


class NamedTool(JsonBody):
    type: Literal["function"]
    function: NamedFunction


Tools: TypeAlias = Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)]
ToolChoice: TypeAlias = Literal["none", "auto", "required"] | NamedTool


def tool_use(tools: Sequence[Tool] | None, choice: ToolChoice | None, parallel: bool | None) -> ToolUse | None:
    """None where nothing may be called. Raises RequestError."""
    if not tools:
        if choice in (None, "none", "auto"):
            return None
        raise RequestError("tool_choice asks for a call, and there are no tools.", field="tool_choice")
    if choice == "none":
        return None
    given = tuple(tool.model_dump(exclude_none=True) for tool in tools)
    if isinstance(choice, NamedTool):
        name = choice.function.name
        given = tuple(tool for tool in given if tool["function"]["name"] == name)
        if not given:
            raise RequestError(f"tool_choice names {name[:64]!r}, which is none of the tools.", field="tool_choice")
        return ToolUse(given[:1], required=True, parallel=False)
    return ToolUse(given, required=choice == "required", parallel=parallel is not False)


def template_call(id: str, name: str, arguments: str) -> dict[str, object]:
    """A call of an earlier answer as chat templates know it: with its arguments as an object."""
    parsed: object = arguments
    with contextlib.suppress(ValueError, RecursionError):  # the model may have written what is no JSON
        parsed = json.loads(arguments)
    return {"id": id, "type": "function", "function": {"name": name, "arguments": parsed}}

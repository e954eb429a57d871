"""How the families write calls of tools, and how tools are described to a model whose template knows none."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

Message = Mapping[str, Any]

MISTRAL_MARK = "[TOOL_CALLS]"
CALL_BEGIN, CALL_END = "<tool_call>", "</tool_call>"

_INTRODUCTION = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


class ToolFormat(Enum):
    TAGGED = "tagged"  # <tool_call>{"name": …, "arguments": …}</tool_call>, as Qwen and Hermes
    DESCRIBED = "described"  # the same, and the template knows no tools: they are told in the system's message
    BARE = "bare"  # {"name": …, "parameters": …} and nothing else, as Llama 3
    LISTED = "listed"  # [TOOL_CALLS][{"name": …, "arguments": …}], as Mistral


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What a request says of tools."""

    tools: tuple[Message, ...]  # as OpenAI has them: {"type": "function", "function": {…}}
    required: bool = False  # there is nothing but calls in the answer
    parallel: bool = True  # more than one call is welcome

    @property
    def functions(self) -> Iterator[Message]:
        return (tool["function"] for tool in self.tools)


def tool_format_of(template: str | None) -> ToolFormat:
    """By what the model's chat template writes into a history with calls."""
    if template is None or "tools" not in template:
        return ToolFormat.DESCRIBED
    if CALL_BEGIN in template:
        return ToolFormat.TAGGED
    if MISTRAL_MARK in template:
        return ToolFormat.LISTED
    return ToolFormat.BARE if '"parameters": ' in template else ToolFormat.DESCRIBED


def described(messages: Sequence[Message], tools: Sequence[Message]) -> list[Message]:
    """`messages` for a template that knows roles and contents alone: tools, calls and results are in their texts."""
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    introduction = _INTRODUCTION.format(tools=listed) if tools else ""
    plain = [_plain(message) for message in messages]
    if not introduction:
        return plain
    if plain and plain[0]["role"] == "system":
        return [{**plain[0], "content": f"{plain[0]['content']}\n\n{introduction}"}, *plain[1:]]
    return [{"role": "system", "content": introduction}, *plain]


def _plain(message: Message) -> Message:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    calls = message.get("tool_calls")
    if not calls:
        return message
    written = [_written(call["function"]) for call in calls]
    rest = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**rest, "content": "\n".join([text for text in [message["content"]] if text] + written)}


def _written(function: Message) -> str:
    call = json.dumps({"name": function["name"], "arguments": function["arguments"]}, ensure_ascii=False)
    return f"{CALL_BEGIN}\n{call}\n{CALL_END}"

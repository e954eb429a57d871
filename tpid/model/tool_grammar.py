"""A grammar, in llguidance's notation of Lark, for answers that are calls of tools and nothing else."""

import json
from typing import Any, Final

from tpid.model.tool_format import CALL_BEGIN, CALL_END, MISTRAL_MARK, Message, ToolFormat, ToolUse

MAX_CALLS: Final = 8  # of one answer: a small model would go on and on

_NO_PARAMETERS: Final = {"type": "object", "properties": {}, "additionalProperties": False}


def tool_grammar(use: ToolUse, format: ToolFormat, mark_id: int | None, answer_schema: str | None = None) -> str:
    """`mark_id`: of Mistral's mark, where it is one token. `answer_schema`: of what may come in the place of calls."""
    rules = [f"call_{index}: {_call(function, format)}" for index, function in enumerate(use.functions)]
    call = " | ".join(f"call_{index}" for index in range(len(rules)))

    def several(one: str, separator: str) -> str:
        return f"{one} ({separator} {one}){{0,{MAX_CALLS - 1}}}" if use.parallel else one

    match format:
        case ToolFormat.BARE:
            calls = "call"
        case ToolFormat.LISTED:
            mark = _quoted(MISTRAL_MARK) if mark_id is None else f"<[{mark_id}]>"
            listed = several("call", '", "')
            calls = f'{mark} "[" {listed} "]"'
        case _:
            begin, end = _quoted(f"{CALL_BEGIN}\n"), _quoted(f"\n{CALL_END}")
            rules.append(f"tagged: {begin} call {end}")
            calls = several("tagged", '"\\n"')
    start = "calls"
    if answer_schema is not None:
        start = "calls | answer"
        rules.append(f"answer: %json {answer_schema}")
    return "\n".join([f"start: {start}", f"calls: {calls}", f"call: {call}", *rules])


def _call(function: Message, format: ToolFormat) -> str:
    key = "parameters" if format is ToolFormat.BARE else "arguments"
    head = f'{{"name": {json.dumps(function["name"])}, "{key}": '
    parameters: Any = function.get("parameters")
    return f"{_quoted(head)} %json {json.dumps(parameters or _NO_PARAMETERS)} {_quoted('}')}"


def _quoted(text: str) -> str:
    return json.dumps(text)

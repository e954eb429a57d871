import json
from typing import Any

import pytest

from tests.unit.api.scripted import ANSWER, STATS, ScriptedEngine, Serve
from tests.unit.api.test_chat import streamed, whole
from tests.unit.api.test_chat_body import body, fault
from tpid.engine.generation import Finished, Text
from tpid.errors import RequestError
from tpid.model.tool_calls import ToolCall
from tpid.model.tool_format import ToolUse

ADD: dict[str, Any] = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
SAY: dict[str, Any] = {"type": "function", "function": {"name": "say", "description": "Says.", "strict": True}}
SAID: dict[str, Any] = {"type": "function", "function": {"name": "say", "description": "Says."}}
NAMED = {"type": "function", "function": {"name": "say"}}


@pytest.mark.parametrize(
    ("fields", "use"),
    [
        ({}, None),
        ({"tools": []}, None),
        ({"tools": [], "tool_choice": "auto"}, None),
        ({"tools": [ADD], "tool_choice": "none"}, None),
        ({"tools": [ADD, SAY]}, ToolUse((ADD, SAID))),
        ({"tools": [ADD], "tool_choice": "auto", "parallel_tool_calls": False}, ToolUse((ADD,), parallel=False)),
        ({"tools": [ADD], "tool_choice": "required"}, ToolUse((ADD,), required=True)),
        ({"tools": [ADD, SAY], "tool_choice": NAMED}, ToolUse((SAID,), required=True, parallel=False)),
    ],
)
def test_what_may_be_called(fields: dict[str, Any], use: ToolUse | None) -> None:
    assert body(**fields).tool_use == use


@pytest.mark.parametrize("fields", [{"tool_choice": "required"}, {"tools": [ADD], "tool_choice": NAMED}])
def test_a_choice_without_its_tool(fields: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        body(**fields).tool_use  # noqa: B018
    assert caught.value.field == "tool_choice"


@pytest.mark.parametrize(
    ("tools", "field"),
    [
        ([{"type": "web_search"}], "tools.0.type"),
        ([{"type": "function"}], "tools.0.function"),
        ([{"type": "function", "function": {"name": ""}}], "tools.0.function.name"),
        ([ADD] * 129, "tools"),
    ],
)
def test_what_is_no_tool(tools: Any, field: str) -> None:
    assert fault(tools=tools)[0] == field


CALLED = [Text("See."), ToolCall("add", '{"a": 1}', "one"), ToolCall("say", "{}", "two"), Finished("tool_calls", STATS)]
CALLS = [
    {"id": "one", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}},
    {"id": "two", "type": "function", "function": {"name": "say", "arguments": "{}"}},
]


def test_calls_are_told_whole(serve: Serve, engine: ScriptedEngine) -> None:
    engine.script = CALLED
    (choice,) = whole(serve, tools=[ADD])[1]["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {"role": "assistant", "content": "See.", "refusal": None, "tool_calls": CALLS}
    engine.script = CALLED[1:]
    assert whole(serve, tools=[ADD])[1]["choices"][0]["message"]["content"] is None
    engine.script = list(ANSWER)
    assert "tool_calls" not in whole(serve, tools=[ADD])[1]["choices"][0]["message"]


def test_calls_are_streamed_as_deltas(serve: Serve, engine: ScriptedEngine) -> None:
    engine.script = CALLED
    choices = [chunk["choices"][0] for chunk in streamed(serve, tools=[ADD], n=2)[:-1]]
    deltas = [(choice["index"], call) for choice in choices for call in choice["delta"].get("tool_calls", [])]
    expected = [{"index": index, **call} for index, call in enumerate(CALLS)]
    assert deltas == [(0, call) for call in expected] + [(1, call) for call in expected]
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["tool_calls"] * 2
    json.dumps(choices)

import json
from typing import Any

import pytest
import uvloop
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.unit.api.scripted import STATS, ScriptedEngine, Serve
from tpid.engine.constraint import Grammar
from tpid.engine.generation import Finished, Text, TokenLogprob, TokenText
from tpid.errors import BusyError, DeviceLostError
from tpid.model.tool_calls import ToolCall
from tpid.model.tool_format import ToolUse

ROUTE = "/v1/responses"
HELLO = {"model": "m", "input": "Hello"}
TOOL = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": True}
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def whole(serve: Serve, **fields: Any) -> tuple[int, Any]:
    async def main() -> tuple[int, Any]:
        async with serve() as api:
            return await api.request(ROUTE, HELLO | fields)

    return uvloop.run(main())


def streamed(serve: Serve, **fields: Any) -> list[Any]:
    """The events, each held against the type that OpenAI's client has of it."""

    async def main() -> str:
        async with serve() as api:
            status, text = await api.text(ROUTE, HELLO | {"stream": True} | fields)
            assert status == 200
            return text

    *events, rest = uvloop.run(main()).split("\n\n")
    assert rest == ""
    found = []
    for number, event in enumerate(events):
        name, _, data = event.partition("\ndata: ")
        told = json.loads(data)
        assert name == f"event: {told['type']}"
        assert told["sequence_number"] == number
        EVENTS.validate_python(told)
        found.append(told)
    return found


def test_a_whole_response(serve: Serve, engine: ScriptedEngine) -> None:
    status, answer = whole(serve, metadata={"a": "b"}, instructions="Be brief.", temperature=0)
    assert status == 200
    response = Response.model_validate(answer)
    assert response.output_text == "Hello"
    assert (response.status, response.incomplete_details, response.error) == ("completed", None, None)
    assert (response.metadata, response.instructions, response.temperature) == ({"a": "b"}, "Be brief.", 0)
    (item,) = answer["output"]
    assert (item["type"], item["role"], item["status"]) == ("message", "assistant", "completed")
    assert answer["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 10,
        "queue_s": 0.25,
    }
    assert answer["timings"]["ttft_s"] == 0.5
    assert engine.models == ["m"]


def test_a_streamed_response(serve: Serve) -> None:
    events = streamed(serve)
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["delta"] for event in events[4:6]] == ["Hel", "lo"]
    response = Response.model_validate(events[-1]["response"])
    assert response.output_text == events[6]["text"] == "Hello"
    assert events[0]["response"]["id"] == response.id
    assert events[8]["item"] == events[-1]["response"]["output"][0]
    assert len({event["item_id"] for event in events if "item_id" in event}) == 1


def test_an_answer_that_max_output_tokens_has_ended(serve: Serve, engine: ScriptedEngine) -> None:
    engine.script[-1] = Finished("length", STATS)
    _, answer = whole(serve, max_output_tokens=3)
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert answer["output"][0]["status"] == "incomplete"
    assert engine.requests[0].max_tokens == 3
    assert streamed(serve)[-1]["type"] == "response.incomplete"


def test_text_and_calls_are_items(serve: Serve, engine: ScriptedEngine) -> None:
    calls = [ToolCall("add", '{"a": 1}', "one"), ToolCall("add", "{}", "two")]
    engine.script[:] = [Text("See."), *calls, Text("So."), Finished("tool_calls", STATS)]
    _, answer = whole(serve, tools=[TOOL], tool_choice="required", parallel_tool_calls=False)
    assert [item["type"] for item in answer["output"]] == ["message", "function_call", "function_call", "message"]
    first = answer["output"][1]
    assert (first["call_id"], first["name"], first["arguments"]) == ("one", "add", '{"a": 1}')
    assert answer["tools"] == [TOOL]
    assert answer["tool_choice"] == "required"
    assert not answer["parallel_tool_calls"]
    function = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    assert engine.requests[0].tools == ToolUse((function,), required=True, parallel=False)
    events = streamed(serve, tools=[TOOL])
    indices = [event["output_index"] for event in events if "output_index" in event]
    assert indices == sorted(indices)
    assert set(indices) == {0, 1, 2, 3}
    arguments = [event for event in events if event["type"].startswith("response.function_call_arguments")]
    assert [event.get("delta") or event["arguments"] for event in arguments] == ['{"a": 1}'] * 2 + ["{}"] * 2


def test_a_named_function(serve: Serve, engine: ScriptedEngine) -> None:
    whole(serve, tools=[TOOL, TOOL | {"name": "say"}], tool_choice={"type": "function", "name": "say"})
    asked = engine.requests[0].tools
    assert asked is not None
    assert ([function["name"] for function in asked.functions], asked.required) == (["say"], True)


def test_an_answer_by_schema(serve: Serve, engine: ScriptedEngine) -> None:
    format = {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True}
    _, answer = whole(serve, text={"format": format})
    assert answer["text"]["format"] == format
    assert engine.requests[0].grammar == Grammar(json_schema='{"type": "object"}', field="text")


def test_logprobs(serve: Serve, engine: ScriptedEngine) -> None:
    token = TokenText(b"Hi", -0.5)
    engine.script[:] = [Text("Hi", (TokenLogprob(token, (token,)),)), Finished("stop", STATS)]
    hi = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105]}
    expected = [{**hi, "top_logprobs": [hi]}]
    events = streamed(serve, include=["message.output_text.logprobs"], top_logprobs=1)
    assert engine.requests[0].top_logprobs == 1
    assert events[4]["logprobs"] == events[5]["logprobs"] == expected
    assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == expected


def test_an_answer_of_nothing(serve: Serve, engine: ScriptedEngine) -> None:
    engine.script[:] = [Finished("stop", STATS)]
    _, answer = whole(serve)
    assert (answer["output"], Response.model_validate(answer).output_text) == ([], "")


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_before_the_answer_is_a_status(serve: Serve, engine: ScriptedEngine, stream: bool) -> None:
    engine.script[:] = [BusyError("Busy.", retry_after_s=3)]
    status, answer = whole(serve, stream=stream)
    assert (status, answer["error"]["type"]) == (429, "rate_limit_error")


def test_an_error_in_a_stream_is_its_last_event(serve: Serve, engine: ScriptedEngine) -> None:
    engine.script[:] = [Text("Hel"), DeviceLostError("Gone.")]

    async def main() -> str:
        async with serve() as api:
            return (await api.text(ROUTE, HELLO | {"stream": True}))[1]

    last = uvloop.run(main()).split("\n\n")[-2]
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "Gone."


def test_what_is_kept_elsewhere_is_refused_with_the_reason(serve: Serve) -> None:
    status, answer = whole(serve, previous_response_id="resp_1")
    assert (status, answer["error"]["param"]) == (400, "previous_response_id")
    assert "send what was said before as items of input" in answer["error"]["message"]


def test_there_are_no_embeddings(serve: Serve) -> None:
    async def main() -> tuple[int, Any]:
        async with serve() as api:
            return await api.request("/v1/embeddings", {"model": "m", "input": "x"})

    status, answer = uvloop.run(main())
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
    assert "embedding model" in answer["error"]["message"]

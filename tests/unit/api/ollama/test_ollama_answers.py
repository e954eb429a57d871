import asyncio
import json
import re
from typing import Any

import pytest
import uvloop

from tests.unit.api.scripted import STATS, ScriptedEngine, Serve
from tpid.engine.generation import Finished, Text, TokenLogprob, TokenText
from tpid.errors import BusyError, DeviceLostError, ModelNotFoundError
from tpid.model.tool_calls import ToolCall

CHAT: tuple[str, dict[str, Any]] = ("/api/chat", {"model": "m", "messages": [{"role": "user", "content": "Hi"}]})
GENERATE: tuple[str, dict[str, Any]] = ("/api/generate", {"model": "m", "prompt": "Hi"})
COST = {
    "total_duration": 950_000_000,
    "load_duration": 0,
    "prompt_eval_count": 7,
    "prompt_eval_duration": 500_000_000,
    "eval_count": 3,
    "eval_duration": 200_000_000,
}


def lines(serve: Serve, what: tuple[str, dict[str, Any]], status: int = 200, **fields: Any) -> list[Any]:
    async def main() -> tuple[int, str]:
        async with serve() as api:
            return await api.text(what[0], what[1] | fields)

    got, text = uvloop.run(main())
    assert got == status
    return [json.loads(line) for line in text.splitlines()]


def told(line: dict[str, Any]) -> Any:
    """What is said in a line, after a look at what each must have."""
    assert line.pop("model") == "m"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("created_at"))
    return line


def test_a_chat_comes_as_lines(serve: Serve, engine: ScriptedEngine) -> None:
    assert [told(line) for line in lines(serve, CHAT)] == [
        {"message": {"role": "assistant", "content": "Hel"}, "done": False},
        {"message": {"role": "assistant", "content": "lo"}, "done": False},
        {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"} | COST,
    ]
    assert engine.models == ["m"]


def test_a_chat_comes_whole(serve: Serve) -> None:
    (line,) = lines(serve, CHAT, stream=False)
    assert told(line) == {
        "message": {"role": "assistant", "content": "Hello"},
        "done": True,
        "done_reason": "stop",
        **COST,
    }


def test_a_text_comes_as_lines_and_whole(serve: Serve, engine: ScriptedEngine) -> None:
    engine.script[-1] = Finished("length", STATS)
    streamed = [told(line) for line in lines(serve, GENERATE)]
    assert [line["response"] for line in streamed] == ["Hel", "lo", ""]
    assert streamed[-1]["done_reason"] == "length"
    (line,) = lines(serve, GENERATE, stream=False)
    assert told(line)["response"] == "Hello"


def test_calls_have_objects_of_arguments(serve: Serve, engine: ScriptedEngine) -> None:
    script = [ToolCall("f", '{"a": 1}', "one"), ToolCall("g", "nonsense", "two"), Finished("tool_calls", STATS)]
    engine.script[:] = script
    tools = [{"type": "function", "function": {"name": "f"}}]
    calls = [
        {"id": "one", "function": {"name": "f", "arguments": {"a": 1}}},
        {"id": "two", "function": {"name": "g", "arguments": {"arguments": "nonsense"}}},
    ]
    (line,) = lines(serve, CHAT, tools=tools, stream=False)
    assert line["message"] == {"role": "assistant", "content": "", "tool_calls": calls}
    assert line["done_reason"] == "stop"
    first, second, last = lines(serve, CHAT, tools=tools)
    assert [first["message"]["tool_calls"], second["message"]["tool_calls"]] == [[calls[0]], [calls[1]]]
    assert last["done"]
    assert engine.requests[0].tools is not None


@pytest.mark.parametrize(
    ("fields", "thinking", "answer"), [({}, "Hm.", "Yes"), ({"think": False}, None, "<think>\nHm.\n</think>\n\nYes")]
)
def test_what_the_model_thinks_is_told_apart(
    serve: Serve, engine: ScriptedEngine, fields: dict[str, Any], thinking: str | None, answer: str
) -> None:
    engine.script[:] = [Text("<think>\nH"), Text("m.\n</think>\n"), Text("\nYes"), Finished("stop", STATS)]
    (line,) = lines(serve, CHAT, stream=False, **fields)
    assert line["message"].get("thinking") == thinking
    assert line["message"]["content"] == answer
    (raw,) = lines(serve, GENERATE, stream=False, raw=True, **fields)
    assert raw["response"] == "<think>\nHm.\n</think>\n\nYes"
    streamed = lines(serve, GENERATE, **fields)
    assert "".join(line.get("thinking", "") for line in streamed) == (thinking or "")
    assert "".join(line["response"] for line in streamed) == answer


def test_logprobs(serve: Serve, engine: ScriptedEngine) -> None:
    chosen, other = TokenText(b"Hi", -0.5), TokenText(b"\xf0", -2.0)
    engine.script[:] = [Text("Hi", (TokenLogprob(chosen, (chosen, other)),)), Finished("stop", STATS)]
    hi = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105]}
    expected = [{**hi, "top_logprobs": [hi, {"token": "�", "logprob": -2.0, "bytes": [240]}]}]
    first, last = lines(serve, CHAT, logprobs=True, top_logprobs=2)
    assert first["logprobs"] == expected
    assert "logprobs" not in last
    assert engine.requests[0].top_logprobs == 2
    (line,) = lines(serve, GENERATE, logprobs=True, stream=False)
    assert line["logprobs"] == expected


@pytest.mark.parametrize("route", ["/api/chat", "/api/generate"])
def test_a_model_is_only_loaded(serve: Serve, engine: ScriptedEngine, route: str) -> None:
    (line,) = lines(serve, (route, {"model": "m", "keep_alive": "5m"}))
    assert (line["done"], line["done_reason"]) == (True, "load")
    assert engine.models == ["m"]
    assert engine.requests == []


@pytest.mark.parametrize("at_once", [0, "0", "0s"])
def test_who_wants_a_model_away_does_not_load_it(serve: Serve, engine: ScriptedEngine, at_once: Any) -> None:
    (line,) = lines(serve, ("/api/generate", {"model": "m", "keep_alive": at_once}))
    assert (line["done"], line["done_reason"]) == (True, "unload")
    assert engine.models == []


def test_errors_are_a_sentence(serve: Serve, engine: ScriptedEngine) -> None:
    (line,) = lines(serve, CHAT, 400, messages=[{"role": "user", "content": "?", "images": ["aGk="]}])
    assert line["error"].startswith("The request is not sound: messages.0.images:")
    assert line["error"].endswith("models here take text only.")
    engine.script[:] = [ModelNotFoundError("No model.", hint="Pull one.")]
    assert lines(serve, CHAT, 404) == [{"error": "No model. Pull one."}]
    engine.script[:] = [BusyError("Busy.", retry_after_s=3)]
    assert lines(serve, CHAT, 429, stream=False) == [{"error": "Busy."}]
    engine.script[:] = [Text("Hel"), DeviceLostError("Gone.")]
    assert lines(serve, CHAT)[-1] == {"error": "Gone."}
    engine.script[:] = [Text("Hel"), ValueError("secret")]
    assert lines(serve, GENERATE)[-1] == {"error": "The daemon has met a fault of its own. See its log."}


def test_a_route_that_is_not_there(serve: Serve) -> None:
    assert lines(serve, ("/api/embed", {}), 404) == [{"error": "POST /api/embed: Not Found."}]


def test_a_client_that_leaves_ends_its_answer(serve: Serve, engine: ScriptedEngine) -> None:
    engine.endless = Text("more ")

    async def main() -> None:
        async with serve() as api:
            reader, writer = await api.raw()
            body = json.dumps(CHAT[1]).encode()
            writer.write(b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            await reader.readuntil(b"more")
            writer.close()
            async with asyncio.timeout(10):
                await engine.ended.wait()

    uvloop.run(main())
    assert engine.running == 0

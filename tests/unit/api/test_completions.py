import json
from typing import Any

import pytest
import uvloop

from tests.unit.api.scripted import ANSWER, ScriptedEngine, Serve
from tests.unit.api.test_chat import LOGPROBS
from tpid.engine.prompt import IdsPrompt, TextPrompt
from tpid.errors import DeviceLostError
from tpid.model.sampling import SamplingParams

COMPLETIONS = "/v1/completions"


def whole(serve: Serve, **options: Any) -> tuple[int, Any]:
    async def main() -> tuple[int, Any]:
        async with serve() as api:
            return await api.request(COMPLETIONS, {"model": "m", "prompt": "Once"} | options)

    return uvloop.run(main())


def streamed(serve: Serve, **options: Any) -> list[Any]:
    async def main() -> str:
        async with serve() as api:
            return (await api.text(COMPLETIONS, {"model": "m", "prompt": "Once", "stream": True} | options))[1]

    data = [event.removeprefix("data: ") for event in uvloop.run(main()).split("\n\n")[:-1]]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


def test_a_text_is_continued(serve: Serve, engine: ScriptedEngine) -> None:
    status, answer = whole(serve)
    assert (status, answer["object"]) == (200, "text_completion")
    assert answer["choices"] == [{"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "stop"}]
    assert answer["usage"]["total_tokens"] == 10
    (request,) = engine.requests
    assert (request.prompt, request.max_tokens) == (TextPrompt("Once"), 16)


def test_a_stream(serve: Serve) -> None:
    *chunks, done = streamed(serve)
    assert done == "[DONE]"
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["Hel", "lo", ""]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "stop"]
    assert not any("usage" in chunk for chunk in chunks)
    last = streamed(serve, stream_options={"include_usage": True})[-2]
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 3)


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", [TextPrompt("a")]),
        (["a", "b"], [TextPrompt("a"), TextPrompt("b")]),
        ([1, 2], [IdsPrompt((1, 2))]),
        ([[1], [2, 3]], [IdsPrompt((1,)), IdsPrompt((2, 3))]),
    ],
)
def test_prompts_of_every_form(serve: Serve, engine: ScriptedEngine, prompt: Any, prompts: list[Any]) -> None:
    _, answer = whole(serve, prompt=prompt, n=2)
    assert [request.prompt for request in engine.requests] == prompts
    assert [choice["index"] for choice in answer["choices"]] == list(range(2 * len(prompts)))
    assert answer["usage"]["prompt_tokens"] == 7 * len(prompts)
    assert answer["usage"]["completion_tokens"] == 6 * len(prompts)
    chunks = streamed(serve, prompt=prompt, n=2)[:-1]
    assert {chunk["choices"][0]["index"] for chunk in chunks} == set(range(2 * len(prompts)))


def test_sampling_reaches_the_engine(serve: Serve, engine: ScriptedEngine) -> None:
    penalties = {"frequency_penalty": 0.5, "presence_penalty": -1.0, "logit_bias": {"5": -100}}
    whole(serve, temperature=0.2, seed=3, stop="x", max_tokens=4, **penalties)
    (request,) = engine.requests
    expected = penalties | {"logit_bias": {5: -100.0}}
    assert request.sampling == SamplingParams(temperature=0.2, seed=3, **expected)  # type: ignore[arg-type]
    assert (request.stop, request.max_tokens) == (("x",), 4)


def test_logprobs_as_the_older_api_has_them(serve: Serve, engine: ScriptedEngine) -> None:
    engine.script = [*LOGPROBS, ANSWER[-1]]
    expected = {
        "tokens": ["H", "\N{REPLACEMENT CHARACTER}"],
        "token_logprobs": [-0.5, -0.25],
        "top_logprobs": [{"H": -0.5, "X": -1.0}, {}],
        "text_offset": [0, 1],
    }
    assert whole(serve, logprobs=2)[1]["choices"][0]["logprobs"] == expected
    chunks = streamed(serve, logprobs=2)[:-1]
    assert [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks[:2]] == [[0], [1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": []}, "prompt: "),
        ({"prompt": 3}, "prompt: a string or a list"),
        ({"prompt": None}, "prompt: "),
        ({"prompt": ["a"] * 17}, "prompt: 17 prompts are not 1 to 16"),
        ({"prompt": [-1]}, "prompt: a token's id is from 0"),
        ({"prompt": [[1], "a", [[2]]]}, "prompt: "),
        ({"prompt": [True]}, "prompt: "),
        ({"echo": True}, "echo: True cannot be honoured"),
        ({"best_of": 2}, "best_of: 2 cannot be honoured"),
        ({"suffix": "x"}, "suffix: x cannot be honoured"),
        ({"logprobs": 21}, "logprobs: "),
    ],
)
def test_what_cannot_be_is_refused_by_name(serve: Serve, change: dict[str, Any], message: str) -> None:
    status, answer = whole(serve, **change)
    assert status == 400
    assert f"not sound: {message}" in answer["error"]["message"]
    assert answer["error"]["param"] == message.partition(":")[0]


def test_an_error_is_a_status_or_the_last_event(serve: Serve, engine: ScriptedEngine) -> None:
    engine.script = [DeviceLostError("Gone.")]
    assert whole(serve, stream=True)[0] == 503
    engine.script = [ANSWER[0], DeviceLostError("Gone.")]
    assert streamed(serve)[-1]["error"]["code"] == "device_lost"

import asyncio
import json
import logging
from typing import Any

import pytest
import uvloop

from tests.unit.api.scripted import ANSWER, ScriptedEngine, Serve
from tpid.device import DeviceId
from tpid.engine.generation import Finished, GenerationStats, Text, TokenLogprob, TokenText
from tpid.engine.work import Work
from tpid.errors import BusyError, ContextOverflowError, DeviceLostError, ModelNotFoundError
from tpid.model.sampling import SamplingParams

CHAT = "/v1/chat/completions"
HELLO = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "total_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 2},
    "queue_s": 0.25,
}


def whole(serve: Serve, **options: Any) -> tuple[int, Any]:
    async def main() -> tuple[int, Any]:
        async with serve() as api:
            return await api.request(CHAT, HELLO | options)

    return uvloop.run(main())


def streamed(serve: Serve, **options: Any) -> list[Any]:
    """The data of the events, parsed where it is JSON."""

    async def main() -> str:
        async with serve() as api:
            status, text = await api.text(CHAT, HELLO | {"stream": True} | options)
            assert status == 200
            return text

    *events, rest = uvloop.run(main()).split("\n\n")
    assert rest == ""
    data = [event.removeprefix("data: ") for event in events]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


def test_a_whole_answer(serve: Serve, engine: ScriptedEngine) -> None:
    status, answer = whole(serve)
    assert status == 200
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "Hello", "refusal": None}, "logprobs": None}
        | {"finish_reason": "stop"}
    ]
    assert answer["usage"] == USAGE
    assert answer["timings"] == {"ttft_s": 0.5, "tpot_s": 0.1, "tokens_s": 10.0}
    assert engine.models == ["m"]


def test_a_streamed_answer(serve: Serve) -> None:
    *chunks, done = streamed(serve)
    assert done == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
        {"content": "lo"},
        {},
    ]
    assert [choice["finish_reason"] for choice in choices] == [None, None, None, "stop"]
    assert not any("usage" in chunk or "timings" in chunk for chunk in chunks)


def test_how_far_it_is_comes_in_chunks_without_choices(serve: Serve, engine: ScriptedEngine) -> None:
    told = asyncio.Event()

    def lose(work: Work) -> None:
        engine.journal.lost(DeviceId("ab"), "desktop", "It has been silent for 2.5 s.", in_plan=True)
        work.changed.notify()
        asyncio.get_running_loop().call_later(0.2, told.set)

    engine.journal.joined(DeviceId("ab"), "desktop")  # before the answer: not told
    engine.script = [lambda work: work.queued(1), asyncio.Event(), lose, told, *ANSWER]
    engine.script[1].set()
    *chunks, done = streamed(serve, stream_options={"include_progress": True, "include_usage": True})
    assert done == "[DONE]"
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert [chunk["progress"] for chunk in chunks if "progress" in chunk] == [{"stage": "queue", "ahead": 1}]
    (event,) = [chunk["event"] for chunk in chunks if "event" in chunk]
    assert (event["kind"], event["device"], event["in_plan"]) == ("lost", "desktop", True)
    assert event["reason"] == "It has been silent for 2.5 s."
    texts = [choice["delta"].get("content") for chunk in chunks for choice in chunk["choices"]]
    assert texts == ["", "Hel", "lo", None]
    assert chunks[-1]["usage"] == USAGE


def test_an_error_comes_in_the_stream_where_progress_is_asked_for(serve: Serve, engine: ScriptedEngine) -> None:
    engine.script = [ModelNotFoundError("There is no model m.")]
    *_, last = streamed(serve, stream_options={"include_progress": True})
    assert last["error"]["code"] == "model_not_found"


def test_usage_comes_in_a_chunk_of_its_own_where_it_is_asked_for(serve: Serve) -> None:
    *chunks, last, done = streamed(serve, stream_options={"include_usage": True})
    assert done == "[DONE]"
    assert (last["choices"], last["usage"], last["timings"]["ttft_s"]) == ([], USAGE, 0.5)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert all(chunk["usage"] is None for chunk in chunks)
    assert not any(chunk.get("usage") for chunk in streamed(serve, stream_options={"include_usage": False})[:-1])


def test_an_answer_of_nothing(serve: Serve, engine: ScriptedEngine) -> None:
    engine.script = [Finished("length", GenerationStats(7, 0, 1, 0.5, 0.0))]
    status, answer = whole(serve)
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "")
    assert answer["timings"] == {"ttft_s": 0.5, "tpot_s": None, "tokens_s": None}
    assert [chunk["choices"][0]["finish_reason"] for chunk in streamed(serve)[:-1]] == [None, "length"]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ModelNotFoundError("There is none.", hint="Pull one."), 404, "model_not_found"),
        (ContextOverflowError("Too long."), 400, "context_length_exceeded"),
        (DeviceLostError("desktop is gone."), 503, "device_lost"),
        (RuntimeError("secret prompt"), 500, "internal"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_before_the_first_text_is_a_status(
    serve: Serve, engine: ScriptedEngine, *, error: Exception, status: int, code: str, stream: bool
) -> None:
    engine.script = [error]
    got, answer = whole(serve, stream=stream)
    assert got == status
    assert "secret" not in str(answer)
    assert answer["error"]["code"] == code


@pytest.mark.parametrize(
    ("error", "code"),
    [(DeviceLostError("desktop is gone.", hint="Switch it on."), "device_lost"), (KeyError(), "internal")],
)
def test_a_later_error_is_the_last_event_and_nothing_is_said_to_be_done(
    serve: Serve, engine: ScriptedEngine, error: Exception, code: str
) -> None:
    engine.script = [ANSWER[0], error]
    events = streamed(serve)
    assert events[-1]["error"]["code"] == code
    assert [event["choices"][0]["delta"] for event in events[:-1]] == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
    ]


def test_sampling_reaches_the_engine(serve: Serve, engine: ScriptedEngine) -> None:
    sampling = {"temperature": 0.3, "top_k": 5, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.1, "seed": 4}
    sampling |= {"frequency_penalty": 0.5, "presence_penalty": -0.5}
    whole(serve, **sampling, logit_bias={"7": -100}, stop=["a", "b"], max_tokens=5, ignore_eos=True)
    (request,) = engine.requests
    assert request.sampling == SamplingParams(**sampling, logit_bias={7: -100})
    assert (request.stop, request.max_tokens, request.ignore_eos) == (("a", "b"), 5, True)
    assert request.prompt.messages == [{"role": "user", "content": "hello"}]


def test_max_completion_tokens_goes_before_max_tokens(serve: Serve, engine: ScriptedEngine) -> None:
    whole(serve, max_tokens=5, max_completion_tokens=6)
    assert engine.requests[0].max_tokens == 6


@pytest.mark.parametrize("stream", [False, True])
def test_when_the_client_leaves_the_answer_ends(serve: Serve, engine: ScriptedEngine, stream: bool) -> None:
    engine.script = [Text("a"), asyncio.Event()]

    async def main() -> None:
        async with serve() as api:
            call = asyncio.create_task(api.text(CHAT, HELLO | {"stream": stream}))
            while not engine.running:  # noqa: ASYNC110 (there is no event for it)
                await asyncio.sleep(0)
            call.cancel()
            await engine.ended.wait()
            engine.script = list(ANSWER)
            assert (await api.request(CHAT, HELLO))[1]["choices"][0]["message"]["content"] == "Hello"

    uvloop.run(main())
    assert engine.running == 0


def test_no_prompt_reaches_the_log(serve: Serve, engine: ScriptedEngine, caplog: pytest.LogCaptureFixture) -> None:
    engine.script = [ANSWER[0], ValueError("no")]
    with caplog.at_level(logging.DEBUG, "tpid"):
        streamed(serve)
    assert "answer_failed model='m'" in caplog.text
    assert "hello" not in caplog.text


def token(text: str, logprob: float) -> TokenText:
    return TokenText(text.encode(), logprob)


LOGPROBS = (
    Text("Hé", (TokenLogprob(token("H", -0.5), (token("H", -0.5), token("X", -1.0))),)),
    Text("", (TokenLogprob(TokenText("é".encode()[:1], -0.25), ()),)),
)


def test_logprobs_are_told_where_they_are_asked_for(serve: Serve, engine: ScriptedEngine) -> None:
    engine.script = [*LOGPROBS, ANSWER[-1]]
    _, answer = whole(serve, logprobs=True, top_logprobs=2)
    first, second = answer["choices"][0]["logprobs"]["content"]
    assert first == {
        "token": "H",
        "logprob": -0.5,
        "bytes": [72],
        "top_logprobs": [
            {"token": "H", "logprob": -0.5, "bytes": [72]},
            {"token": "X", "logprob": -1.0, "bytes": [88]},
        ],
    }
    assert second == {"token": "\N{REPLACEMENT CHARACTER}", "logprob": -0.25, "bytes": [0xC3], "top_logprobs": []}
    assert engine.requests[-1].top_logprobs == 2
    chunks = streamed(serve, logprobs=True)[:-1]
    told = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [None if item is None else len(item["content"]) for item in told] == [None, 1, 1, None]
    assert engine.requests[-1].top_logprobs == 0
    assert whole(serve)[1]["choices"][0]["logprobs"] is None
    assert engine.requests[-1].top_logprobs is None


def test_several_answers(serve: Serve, engine: ScriptedEngine) -> None:
    _, answer = whole(serve, n=2)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert {choice["message"]["content"] for choice in answer["choices"]} == {"Hello"}
    assert answer["usage"] == USAGE | {"completion_tokens": 6, "total_tokens": 13}
    assert engine.requests[-1].n == 2
    *chunks, last, _ = streamed(serve, n=2, stream_options={"include_usage": True})
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [choice["index"] for choice in choices] == [0] * 4 + [1] * 4
    assert [choice["delta"].get("role") for choice in choices].count("assistant") == 2
    assert last["usage"]["completion_tokens"] == 6


def test_who_is_turned_away_learns_when_to_come_again(serve: Serve, engine: ScriptedEngine) -> None:
    engine.script = [BusyError("Busy.", hint="Try again in 7 s.", retry_after_s=7)]

    async def main() -> tuple[int, str]:
        async with serve() as api, api.session.post(f"http://tpid{CHAT}", json=HELLO) as response:
            return response.status, response.headers["Retry-After"]

    assert uvloop.run(main()) == (429, "7")

"""A real daemon on TCP, asked by OpenAI's own client."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

Home = Any  # of conftest.py

MODEL = "smollm2-135m"
QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def client(tcp_daemon: Any) -> Iterator[openai.OpenAI]:
    address = tcp_daemon.status()["api"]["address"]
    with openai.OpenAI(base_url=f"http://{address}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_a_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=16)
    (choice,) = answer.choices
    assert "Paris" in str(choice.message.content)
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@pytest.mark.parametrize("with_usage", [False, True])
def test_a_stream(client: openai.OpenAI, with_usage: bool) -> None:
    options: Any = {"stream_options": {"include_usage": True}} if with_usage else {}
    stream = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_tokens=16, stream=True, **options
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "Paris" in text
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [with_usage]


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("none")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_errors_come_as_the_client_knows_them(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=200)
    assert (caught.value.type, caught.value.param) == ("invalid_request_error", "temperature")
    with pytest.raises(openai.BadRequestError, match="context holds") as caught:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "word " * 5000}])
    assert caught.value.code == "context_length_exceeded"


class Capital(BaseModel):
    city: str
    country: str
    inhabitants: int


def test_an_answer_by_schema(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=MODEL, messages=QUESTION, temperature=0, max_tokens=80, response_format=Capital
    )
    parsed = answer.choices[0].message.parsed
    assert parsed is not None
    assert (answer.choices[0].finish_reason, "Paris" in parsed.city) == ("stop", True)
    any_object: Any = {"type": "json_object"}
    answers = client.chat.completions.create(
        model=MODEL, messages=QUESTION, n=2, temperature=1.0, seed=3, max_tokens=60, response_format=any_object
    )
    for choice in answers.choices:
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(str(choice.message.content)), dict)
    bad: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
    with pytest.raises(openai.BadRequestError, match="nonsense") as caught:
        client.chat.completions.create(model=MODEL, messages=QUESTION, response_format=bad)
    assert caught.value.param == "response_format"


WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}


def test_a_round_trip_with_a_tool(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
    options: Any = {"model": MODEL, "temperature": 0, "tools": [WEATHER]}
    named: Any = {"type": "function", "function": {"name": "get_weather"}}
    (choice,) = client.chat.completions.create(**options, messages=messages, tool_choice=named, max_tokens=80).choices
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or ()
    assert call.type == "function"
    assert call.function.name == "get_weather"
    arguments = json.loads(call.function.arguments)
    assert arguments.keys() == {"city", "unit"}
    messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "18 degrees, sunny"}]
    (choice,) = client.chat.completions.create(**options, messages=messages, max_tokens=24).choices
    assert choice.message.content

    chunks = list(
        client.chat.completions.create(
            **options,
            messages=messages[:1],
            tool_choice="required",
            parallel_tool_calls=False,
            max_tokens=80,
            stream=True,
        )
    )
    deltas = [delta for chunk in chunks for delta in chunk.choices[0].delta.tool_calls or []]
    assert [(delta.index, delta.function.name) for delta in deltas if delta.function] == [(0, "get_weather")]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_a_key_is_needed_beyond_loopback(home: Home) -> None:
    daemon = home.launch("open", **{"api.listen": "0.0.0.0:0"})
    assert daemon.process.wait(60) != 0
    assert "tpid: The API cannot listen on 0.0.0.0:0: beyond this machine clients need a key" in daemon.log
    daemon = home.launch("open")
    daemon.wait("is up", lambda status: True)
    created: subprocess.CompletedProcess[str] = home.tpictl(daemon, "key", "create", "phone")
    daemon.stop()
    daemon = home.launch("open", **{"api.listen": "0.0.0.0:0"})
    port = daemon.wait("is up", lambda status: True)["api"]["address"].rpartition(":")[2]
    for key, may in (("wrong", False), (created.stdout.strip(), True)):
        with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0) as client:
            if may:
                assert list(client.models.list()) == []
            else:
                with pytest.raises(openai.AuthenticationError):
                    client.models.list()


def test_logprobs_are_those_of_the_tokens(client: openai.OpenAI) -> None:
    options: Any = {"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 12}
    whole = client.chat.completions.create(**options, logprobs=True, top_logprobs=3)
    (choice,) = whole.choices
    assert choice.logprobs is not None
    tokens = choice.logprobs.content
    assert tokens is not None
    assert b"".join(bytes(token.bytes or []) for token in tokens).decode() == choice.message.content
    for token in tokens:  # greedy: the chosen one is the likeliest
        assert token.top_logprobs[0].token == token.token
        assert 0 >= token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob >= token.top_logprobs[2].logprob
    chunks = list(client.chat.completions.create(**options, logprobs=True, stream=True))
    streamed = [
        token
        for chunk in chunks
        for choice in chunk.choices
        if choice.logprobs is not None
        for token in choice.logprobs.content or []
    ]
    assert [token.token for token in streamed] == [token.token for token in tokens]
    assert [token.logprob for token in streamed] == pytest.approx([token.logprob for token in tokens], abs=1e-3)


def test_several_answers_and_a_bias(client: openai.OpenAI) -> None:
    options: Any = {"model": MODEL, "messages": QUESTION, "max_tokens": 8}
    several = client.chat.completions.create(**options, n=3, temperature=1.5, seed=1)
    texts = [choice.message.content for choice in several.choices]
    assert len(set(texts)) > 1
    assert several.usage is not None
    assert several.usage.completion_tokens <= 24
    again = client.chat.completions.create(**options, n=3, temperature=1.5, seed=1)
    assert [choice.message.content for choice in again.choices] == texts
    forced = client.chat.completions.create(**options, temperature=0, logit_bias={"20": 100})
    assert forced.choices[0].logprobs is None
    assert len(set(str(forced.choices[0].message.content))) == 1
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**options, logit_bias={"2000000": 1})
    assert caught.value.param == "logit_bias"


def test_completions(client: openai.OpenAI) -> None:
    options: Any = {"model": MODEL, "temperature": 0, "max_tokens": 6}
    one, two = client.completions.create(
        **options, prompt=["The capital of France is", "One, two,"], logprobs=1
    ).choices
    assert "Paris" in one.text
    assert "three" in two.text
    assert one.logprobs is not None
    assert "".join(one.logprobs.tokens or []) == one.text
    streamed = client.completions.create(**options, prompt="The capital of France is", stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == one.text

"""OpenAI's Responses API of a real daemon on TCP, asked by OpenAI's own client."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

MODEL = "smollm2-135m"
QUESTION = "What is the capital of France?"
GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_output_tokens": 40}


@pytest.fixture(scope="module")
def client(tcp_daemon: Any) -> Iterator[openai.OpenAI]:
    address = tcp_daemon.status()["api"]["address"]
    with openai.OpenAI(base_url=f"http://{address}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_a_response_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = client.responses.create(**GREEDY, input=QUESTION)
    assert "Paris" in whole.output_text
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens
    events = list(client.responses.create(**GREEDY, input=QUESTION, stream=True))
    assert events[0].type == "response.created"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert events[-1].type in ("response.completed", "response.incomplete")
    with client.responses.stream(**GREEDY, input=QUESTION) as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
    assert snapshots[-1] == whole.output_text


def test_a_chat_goes_on_by_its_items(client: openai.OpenAI) -> None:
    said: Any = [{"role": "user", "content": QUESTION}]
    first = client.responses.create(**GREEDY, input=said, instructions="Answer with one word.")
    said += [*first.output, {"role": "user", "content": "And of Italy?"}]
    assert client.responses.create(**GREEDY, input=said).output_text


class Capital(BaseModel):
    city: str
    country: str


def test_an_answer_by_schema(client: openai.OpenAI) -> None:
    parsed = client.responses.parse(**GREEDY, input=QUESTION, text_format=Capital).output_parsed
    assert parsed is not None
    assert "Paris" in parsed.city


WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


def test_a_round_trip_with_a_tool(client: openai.OpenAI) -> None:
    said: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
    options: Any = {**GREEDY, "tools": [WEATHER]}
    first = client.responses.create(**options, input=said, tool_choice={"type": "function", "name": "get_weather"})
    (call,) = first.output
    assert call.type == "function_call"
    assert json.loads(call.arguments).keys() == {"city"}
    said += [call, {"type": "function_call_output", "call_id": call.call_id, "output": "18 degrees, sunny"}]
    assert client.responses.create(**options, input=said).output
    with client.responses.stream(**options, input=said[:1], tool_choice="required") as stream:
        done = [event for event in stream if event.type == "response.function_call_arguments.done"]
    assert [json.loads(event.arguments).keys() for event in done]


def test_errors_come_as_the_client_knows_them(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="answers are not kept") as caught:
        client.responses.create(**GREEDY, input=QUESTION, previous_response_id="resp_1")
    assert caught.value.param == "previous_response_id"
    with pytest.raises(openai.BadRequestError, match="Run an embedding model"):
        client.embeddings.create(model=MODEL, input="text")

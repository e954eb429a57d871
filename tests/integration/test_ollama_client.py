"""A real daemon on TCP, asked by Ollama's own Python client."""

import json
from typing import Any

import ollama
import pytest

MODEL = "smollm2-135m"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY = {"temperature": 0, "num_predict": 16}


@pytest.fixture(scope="module")
def client(tcp_daemon: Any) -> ollama.Client:
    return ollama.Client(host=f"http://{tcp_daemon.status()['api']['address']}")


def test_models(client: ollama.Client) -> None:
    (listed,) = client.list().models
    assert listed.model == MODEL
    shown = client.show(MODEL)
    assert shown.details is not None
    assert shown.details.parameter_size == "134.5M"
    assert shown.modelinfo is not None
    assert shown.modelinfo["general.architecture"] == "llama"
    with pytest.raises(ollama.ResponseError, match="has no model none") as caught:
        client.show("none")
    assert caught.value.status_code == 404


def test_a_chat_whole_and_streamed(client: ollama.Client) -> None:
    whole = client.chat(MODEL, QUESTION, options=GREEDY)
    assert "Paris" in str(whole.message.content)
    assert whole.done
    assert whole.eval_count
    *pieces, last = client.chat(MODEL, QUESTION, options=GREEDY, stream=True)
    assert "".join(str(piece.message.content) for piece in pieces) == whole.message.content
    assert (last.done, last.done_reason, last.eval_count) == (True, whole.done_reason, whole.eval_count)
    assert [loaded.model for loaded in client.ps().models] == [MODEL]


def test_a_text_with_its_template_and_raw(client: ollama.Client) -> None:
    answer = client.generate(MODEL, QUESTION[0]["content"], options=GREEDY, keep_alive="5m")
    assert "Paris" in answer.response
    raw = client.generate(MODEL, "The capital of France is", raw=True, options=GREEDY, stream=True)
    assert "Paris" in "".join(piece.response for piece in raw)
    assert client.generate(MODEL).done_reason == "load"


def test_an_answer_by_schema(client: ollama.Client) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}
    answer = client.chat(MODEL, QUESTION, format=schema | {"additionalProperties": False}, options={"temperature": 0})
    assert json.loads(str(answer.message.content)).keys() == {"city"}


def get_weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: its name
    """
    return f"sunny in {city}"


def test_tools_and_their_results(client: ollama.Client) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
    client.chat(MODEL, messages, tools=[get_weather], options=GREEDY)  # what a model this small says is anybody's guess
    call = {"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
    messages += [{"role": "assistant", "tool_calls": [call]}]
    messages += [{"role": "tool", "tool_name": "get_weather", "content": get_weather("Paris")}]
    assert client.chat(MODEL, messages, tools=[get_weather], options=GREEDY).message.content


def test_errors_come_as_the_client_knows_them(client: ollama.Client) -> None:
    picture = [{"role": "user", "content": "What is this?", "images": [b"picture"]}]
    for stream in (False, True):
        with pytest.raises(ollama.ResponseError, match="models here take text only") as caught:
            list(client.chat(MODEL, picture, stream=stream))
        assert caught.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="Not Found"):
        client.embed(MODEL, "text")

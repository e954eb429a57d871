"""A real daemon on TCP, asked by OpenAI's own client."""

import subprocess
from collections.abc import Iterator
from typing import Any

import openai
import pytest

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

"""A real daemon on TCP, asked by clients of OpenAI's and Ollama's API that take long to install and to import.

They come with `pip install -e '.[dev,clients]'`, in an environment of their own: litellm has exact versions of what
it needs, which are not those of constraints.txt. Each test skips where its client is not there.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

MODEL = "smollm2-135m"
QUESTION = "What is the capital of France?"
WHY = "this client comes with pip install -e '.[dev,clients]'"


class Capital(BaseModel):
    """A capital."""

    city: str
    country: str


def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


def address_of(request: pytest.FixtureRequest) -> str:
    """Of a daemon, which is started only now: there may be no client to ask it."""
    return f"http://{request.getfixturevalue('tcp_daemon').status()['api']['address']}"


@pytest.mark.parametrize("responses", [False, True], ids=["chat completions", "responses"])
def test_langchain(request: pytest.FixtureRequest, responses: bool) -> None:
    langchain: Any = pytest.importorskip("langchain_openai", reason=WHY)
    messages: Any = pytest.importorskip("langchain_core.messages", reason=WHY)
    model = langchain.ChatOpenAI(
        model=MODEL,
        base_url=f"{address_of(request)}/v1",
        api_key="any",
        temperature=0,
        max_tokens=60,
        max_retries=0,
        use_responses_api=responses,
    )
    whole = model.invoke(QUESTION)
    assert "Paris" in str(whole.content)
    assert whole.usage_metadata["total_tokens"] > 0
    assert "Paris" in "".join(chunk.text for chunk in model.stream(QUESTION))
    for method in ("json_schema", "function_calling"):
        assert isinstance(model.with_structured_output(Capital, method=method).invoke(QUESTION), Capital)
    called = model.bind_tools([get_weather], tool_choice="any", strict=True).invoke(QUESTION)
    (call,) = called.tool_calls
    assert (call["name"], call["args"].keys()) == ("get_weather", {"city"})
    result = messages.ToolMessage(get_weather(**call["args"]), tool_call_id=call["id"])
    said = [messages.HumanMessage(QUESTION), called, result]
    assert model.bind_tools([get_weather]).invoke(said).content


@pytest.mark.parametrize("provider", ["openai", "ollama_chat", "ollama"])
def test_litellm(request: pytest.FixtureRequest, provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would fetch its list of prices
    litellm: Any = pytest.importorskip("litellm", reason=WHY)
    base = address_of(request)
    address = f"{base}/v1" if provider == "openai" else base
    options: dict[str, Any] = {"model": f"{provider}/{MODEL}", "api_base": address, "api_key": "any"}
    options |= {"temperature": 0, "max_tokens": 60, "messages": [{"role": "user", "content": QUESTION}]}
    whole = litellm.completion(**options)
    assert "Paris" in whole.choices[0].message.content
    assert whole.usage.completion_tokens > 0
    pieces = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**options, stream=True)]
    assert "".join(pieces) == whole.choices[0].message.content
    if provider != "ollama":  # that one knows no schema
        answer = litellm.completion(**options, response_format=Capital).choices[0].message.content
        assert "Paris" in Capital.model_validate_json(answer).city
    with pytest.raises(Exception, match=r"temperature is 200\.0"):
        litellm.completion(**options | {"temperature": 200})


def test_llm(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli: Any = pytest.importorskip("llm.cli", reason=WHY)
    testing: Any = pytest.importorskip("click.testing")
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    models = [
        {"model_id": "tpid", "model_name": MODEL, "api_base": f"{address_of(request)}/v1", "supports_schema": True}
    ]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(models))

    def said(*arguments: str) -> str:
        command = ["-m", "tpid", *arguments, QUESTION, "-o", "temperature", "0", "-o", "max_tokens", "60"]
        result = testing.CliRunner().invoke(cli.cli, command)
        assert result.exit_code == 0, result.output
        return str(result.stdout)

    assert "Paris" in said()
    assert "Paris" in said("--no-stream")
    assert json.loads(said("--schema", "city, country"))["city"] == "Paris"

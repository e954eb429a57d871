from typing import Any

import pytest
from pydantic import ValidationError

from tpid.api.asked import generation_request
from tpid.api.bodies import first_fault
from tpid.api.ollama.bodies import ChatBody, GenerateBody, ShowBody
from tpid.engine.constraint import Grammar
from tpid.engine.prompt import ChatPrompt, TextPrompt
from tpid.errors import RequestError
from tpid.model.sampling import SamplingParams


def chat(**fields: Any) -> ChatBody:
    return ChatBody.model_validate({"model": "m", "messages": [{"role": "user", "content": "Hi"}]} | fields)


def generate(**fields: Any) -> GenerateBody:
    return GenerateBody.model_validate({"model": "m", "prompt": "Hi"} | fields)


def messages(*messages: Any) -> list[Any]:
    prompt = chat(messages=messages).prompt
    assert isinstance(prompt, ChatPrompt)
    return list(prompt.messages)


def test_options_become_our_sampling() -> None:
    options = {
        "temperature": 0.5,
        "top_k": -1,
        "top_p": 0.9,
        "min_p": 0.1,
        "repeat_penalty": 1.2,
        "seed": 3,
        "num_predict": 9,
        "stop": ["x"],
        "num_ctx": 4096,
    }
    request = generation_request(chat(options=options))
    assert request.sampling == SamplingParams(
        temperature=0.5, top_k=0, top_p=0.9, min_p=0.1, repetition_penalty=1.2, seed=3
    )
    assert (request.max_tokens, request.stop, request.n) == (9, ("x",), 1)


@pytest.mark.parametrize("options", [{}, None, {"seed": -1, "num_predict": -2}, {"temperature": None}])
def test_what_options_are_without_a_word(options: Any) -> None:
    request = generation_request(chat(options=options))
    assert request.sampling == SamplingParams(temperature=0.7)
    assert request.max_tokens is None


@pytest.mark.parametrize(
    ("format", "grammar"),
    [
        (None, None),
        ("", None),
        ("json", Grammar(json_schema='{"type": "object"}')),
        ({"type": "array"}, Grammar(json_schema='{"type": "array"}')),
    ],
)
def test_formats(format: Any, grammar: Grammar | None) -> None:
    assert chat(format=format).grammar == grammar


@pytest.mark.parametrize(
    ("think", "variables"),
    [
        (None, {}),
        (True, {"enable_thinking": True}),
        (False, {"enable_thinking": False}),
        ("high", {"enable_thinking": True, "reasoning_effort": "high"}),
    ],
)
def test_thinking_is_a_matter_of_the_template(think: Any, variables: dict[str, object]) -> None:
    assert chat(think=think).prompt == ChatPrompt([{"role": "user", "content": "Hi"}], variables=variables)


def test_calls_and_their_results_have_ids_by_their_order() -> None:
    calls = [{"function": {"name": name, "arguments": {"a": 1}}} for name in "fg"]
    assistant, first, second = messages(
        {"role": "assistant", "content": None, "thinking": "Hm.", "tool_calls": calls},
        {"role": "tool", "content": "1", "tool_name": "f"},
        {"role": "tool", "content": "2"},
    )
    ids = [call["id"] for call in assistant["tool_calls"]]
    assert len(set(ids)) == 2
    assert all(len(id) == 9 for id in ids)
    assert [first["tool_call_id"], second["tool_call_id"]] == ids
    assert first["name"] == "f"
    assert assistant["reasoning_content"] == "Hm."
    assert assistant["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": 1}}


def test_ids_that_are_told_are_kept() -> None:
    calls = [{"id": id, "function": {"name": "f", "arguments": {}}} for id in ("one", "two")]
    assistant, second, first, other = messages(
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "content": "2", "tool_call_id": "two"},
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": "?"},
    )
    assert [call["id"] for call in assistant["tool_calls"]] == ["one", "two"]
    assert (second["tool_call_id"], first["tool_call_id"]) == ("two", "one")
    assert "tool_call_id" not in other


def test_a_prompt_is_a_users_message_or_raw() -> None:
    hi = {"role": "user", "content": "Hi"}
    assert generate().prompt == ChatPrompt([hi])
    assert generate(system="S").prompt == ChatPrompt([{"role": "system", "content": "S"}, hi])
    assert generate(raw=True).prompt == TextPrompt("Hi")
    with pytest.raises(ValidationError, match="raw text has no place for system"):
        generate(raw=True, system="S")


@pytest.mark.parametrize(
    ("fields", "field", "why"),
    [
        ({"images": ["aGk="]}, "images", "models here take text only"),
        ({"context": [1]}, "context", "send the messages so far to /api/chat"),
        ({"suffix": "end"}, "suffix", "fill no gap"),
        ({"options": {"mirostat": 1}}, "options.mirostat", "tokens are chosen by"),
        ({"nonsense": 1}, "nonsense", "Extra inputs"),
    ],
)
def test_what_cannot_be_is_refused_by_name(fields: dict[str, Any], field: str, why: str) -> None:
    with pytest.raises(ValidationError) as caught:
        generate(**fields)
    told, reason = first_fault(caught.value.errors())
    assert told == field
    assert why in reason


def test_sampling_out_of_range() -> None:
    with pytest.raises(RequestError, match="top_p is 2"):
        generation_request(chat(options={"top_p": 2}))


def test_names_lose_the_tag_that_says_nothing() -> None:
    assert chat(model="m:latest").model == "m"
    assert chat(model="m:1b").model == "m:1b"
    assert ShowBody.model_validate({"name": "m:latest"}).model == "m"

from typing import Any

import pytest
from pydantic import ValidationError

from tpid.api.bodies import first_fault
from tpid.api.chat_body import ChatBody
from tpid.model.sampling import SamplingParams

HELLO = {"role": "user", "content": "hello"}
CHAT = {"model": "m", "messages": [HELLO]}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


def body(**changes: Any) -> ChatBody:
    return ChatBody.model_validate(CHAT | changes)


def fault(**changes: Any) -> tuple[str | None, str]:
    with pytest.raises(ValidationError) as caught:
        body(**changes)
    return first_fault(caught.value.errors())


def template(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(message) for message in body(messages=list(messages)).prompt.messages]


def test_a_chat_has_its_defaults() -> None:
    assert body().sampling == SamplingParams(temperature=0.7)
    assert {"temperature", "top_k", "top_p", "min_p", "repetition_penalty"} <= body().sampling.unsaid
    assert body(top_p=1, temperature=0.7).sampling.unsaid.isdisjoint({"top_p", "temperature"})
    assert (body().stream, body().usage_is_told, body().stop, body().max_tokens) == (False, False, (), None)


def test_null_is_the_default_of_every_field() -> None:
    names = ChatBody.model_fields.keys() - CHAT.keys()
    nulls = ChatBody.model_validate(CHAT | dict.fromkeys(names))
    assert nulls == body()


@pytest.mark.parametrize(
    ("stop", "strings"), [(None, ()), ("a", ("a",)), (["a", "b"], ("a", "b")), ([], ()), ("", ("",))]
)
def test_stop_is_one_string_or_several(stop: Any, strings: tuple[str, ...]) -> None:
    assert body(stop=stop).stop == strings


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"messages": []}, "messages: "),
        ({"messages": 3}, "messages: "),
        ({"messages": [HELLO, 1]}, "messages.1: "),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role: "),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0: content is missing"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content: a text part has no"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages.0.content: a part is an object"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]},
            "messages.0.content: a part of type image_url cannot be read: models here take text only",
        ),
        ({"temperature": "hot"}, "temperature: "),
        ({"temperature": float("nan")}, "temperature: "),
        ({"top_p": float("inf")}, "top_p: "),
        ({"max_tokens": 0}, "max_tokens: "),
        ({"stop": ["x"] * 17}, "stop: 17 stop strings are more than 16"),
        ({"stop": [1]}, "stop: a string, or a list of them, is expected"),
        ({"seed": 1.5}, "seed: "),
        ({"model": "m" * 300}, "model: "),
        ({"modle": "m"}, "modle: Extra inputs are not permitted"),
        ({"store": True}, "store: True cannot be honoured: answers are not kept"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs cannot set messages"),
    ],
)
def test_a_faulty_chat_is_told_with_its_field(change: dict[str, Any], where: str) -> None:
    assert fault(**change)[1].startswith(where)


def test_a_fault_names_its_field() -> None:
    assert fault(store=True)[0] == "store"
    assert fault(messages=[HELLO, {"role": "user", "content": [3]}])[0] == "messages.1.content"


def test_a_list_ends_at_its_first_fault() -> None:
    with pytest.raises(ValidationError) as caught:
        ChatBody.model_validate({"model": "m", "messages": [1] * 1000})
    assert caught.value.error_count() == 1


def test_a_field_that_a_client_made_up_is_told_short_and_printable() -> None:
    assert fault(**{"x" * 10**6: 1})[1] == "x" * 40 + "…: Extra inputs are not permitted"
    assert fault(**{"a\nb\x1b[2J": 1})[1] == r"'a\nb\x1b[2J': Extra inputs are not permitted"
    assert fault(service_tier="x" * 10**6)[1].startswith("service_tier: " + "x" * 40 + "… cannot")


def test_text_in_parts_stands_on_lines_of_its_own() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert template({"role": "user", "content": parts}) == [{"role": "user", "content": "a\nb"}]
    assert template({"role": "user", "content": []}) == [{"role": "user", "content": ""}]


def test_a_developer_is_a_system_to_templates() -> None:
    assert template({"role": "developer", "content": "be brief"}) == [{"role": "system", "content": "be brief"}]


def test_a_history_with_all_that_an_answer_may_have() -> None:
    nothing = {"refusal": None, "audio": None, "function_call": None, "annotations": [], "tool_calls": None}
    assert template({"role": "assistant", "content": "hi", **nothing}) == [{"role": "assistant", "content": "hi"}]
    assert template({"role": "assistant", "refusal": "no"}) == [{"role": "assistant", "content": "no"}]
    thought = {"role": "assistant", "content": "hi", "reasoning_content": "hm"}
    assert template(thought) == [thought]


def test_calls_and_results_of_tools_come_to_templates_as_they_expect_them() -> None:
    call, result = template(
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
    )
    function = {"name": "add", "arguments": {"a": 1}}
    assert call == {"role": "assistant", "content": "", "tool_calls": [CALL | {"function": function}]}
    assert result == {"role": "tool", "content": "3", "tool_call_id": "c1"}
    broken = CALL | {"function": {"name": "add", "arguments": "{"}}
    assert template({"role": "assistant", "tool_calls": [broken]})[0]["tool_calls"] == [broken]


@pytest.mark.parametrize(
    ("change", "variables"),
    [
        ({}, {}),
        ({"reasoning_effort": "none"}, {"enable_thinking": False, "reasoning_effort": "none"}),
        ({"reasoning_effort": "high"}, {"enable_thinking": True, "reasoning_effort": "high"}),
        ({"chat_template_kwargs": {"enable_thinking": False}}, {"enable_thinking": False}),
        (
            {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}},
            {"enable_thinking": False, "reasoning_effort": "low"},
        ),
    ],
)
def test_thinking_is_a_variable_of_the_template(change: dict[str, Any], variables: dict[str, Any]) -> None:
    assert body(**change).prompt.variables == variables

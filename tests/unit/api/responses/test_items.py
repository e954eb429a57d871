from typing import Any

import pytest
from pydantic import ValidationError

from tpid.api.bodies import first_fault
from tpid.api.responses.body import ResponsesBody
from tpid.engine.prompt import ChatPrompt


def body(**fields: Any) -> ResponsesBody:
    return ResponsesBody.model_validate({"model": "m", "input": "Hi"} | fields)


def messages(input: Any, **fields: Any) -> list[Any]:
    prompt = body(input=input, **fields).prompt
    assert isinstance(prompt, ChatPrompt)
    return list(prompt.messages)


def test_a_string_is_a_users_message() -> None:
    assert messages("Hi") == [{"role": "user", "content": "Hi"}]
    assert messages("Hi", instructions="Be brief.")[0] == {"role": "system", "content": "Be brief."}


def test_what_was_said_before() -> None:
    said = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "x"},
        {"type": "message", "id": "msg", "role": "assistant", "status": "completed"}
        | {"content": [{"type": "output_text", "text": "c", "annotations": [], "logprobs": []}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    ]
    assert messages(said) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "c"},
        {"role": "assistant", "content": "no"},
    ]


def test_calls_that_follow_each_other_are_one_message() -> None:
    def call(id: str, arguments: str) -> dict[str, Any]:
        return {"type": "function_call", "call_id": id, "name": "f", "arguments": arguments, "id": f"fc_{id}"}

    def told(id: str, arguments: Any) -> dict[str, Any]:
        return {"id": id, "type": "function", "function": {"name": "f", "arguments": arguments}}

    said = [
        {"role": "assistant", "content": "Let me see."},
        call("one", '{"a": 1}'),
        call("two", "nonsense"),
        {"type": "function_call_output", "call_id": "one", "output": "1"},
        {"type": "function_call_output", "call_id": "two", "output": [{"type": "input_text", "text": "2"}]},
        call("three", "{}"),
    ]
    assert messages(said) == [
        {"role": "assistant", "content": "Let me see.", "tool_calls": [told("one", {"a": 1}), told("two", "nonsense")]},
        {"role": "tool", "content": "1", "tool_call_id": "one"},
        {"role": "tool", "content": "2", "tool_call_id": "two"},
        {"role": "assistant", "content": "", "tool_calls": [told("three", {})]},
    ]


@pytest.mark.parametrize(
    ("input", "why"),
    [
        ([], "at least 1 item"),
        (3, "valid list"),
        ([3], "valid"),
        ([{"role": "user"}], "content"),
        ([{"role": "tool", "content": "x"}], "role"),
        ([{"type": "item_reference", "id": "x"}], "an item of type item_reference cannot be read"),
        ([{"type": "function_call", "name": "f", "arguments": "{}"}], "call_id"),
        ([{"role": "user", "content": [{"type": "input_image"}]}], "a part of type input_image cannot be read"),
        ([{"role": "user", "content": [{"type": "input_text"}]}], "a part is an object"),
        ([{"role": "user", "content": ["x"]}], "a part is an object"),
    ],
)
def test_what_is_no_input(input: Any, why: str) -> None:
    with pytest.raises(ValidationError) as caught:
        body(input=input)
    field, fault = first_fault(caught.value.errors())
    assert str(field).startswith("input")
    assert why in fault

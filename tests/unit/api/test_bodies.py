from typing import Any

import pytest
from pydantic import ValidationError

from tpid.api.bodies import ChatBody, ImportBody, JsonBody, LoadBody, PlanBody, PullBody, first_fault

HELLO = {"role": "user", "content": "hello"}
CHAT = {"model": "m", "messages": [HELLO]}


def fault(kind: type[JsonBody], body: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(body)
    return first_fault(caught.value.errors())


def test_a_chat_has_openais_defaults() -> None:
    body = ChatBody.model_validate(CHAT)
    assert (body.temperature, body.top_p, body.stream, body.stop_strings) == (0.7, 1.0, False, ())


@pytest.mark.parametrize(
    ("stop", "strings"), [(None, ()), ("a", ("a",)), (["a", "b"], ("a", "b")), ([], ()), ("", ("",))]
)
def test_stop_is_one_string_or_several(stop: Any, strings: tuple[str, ...]) -> None:
    assert ChatBody.model_validate(CHAT | {"stop": stop}).stop_strings == strings


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"messages": []}, "messages: "),
        ({"messages": 3}, "messages: "),
        ({"messages": [HELLO, 1]}, "messages.1: "),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role: "),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content: "),
        ({"temperature": "hot"}, "temperature: "),
        ({"temperature": float("nan")}, "temperature: "),
        ({"top_p": float("inf")}, "top_p: "),
        ({"max_tokens": 0}, "max_tokens: "),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"seed": 1.5}, "seed: "),
        ({"model": "m" * 300}, "model: "),
        ({"modle": "m"}, "modle: Extra inputs are not permitted"),
    ],
)
def test_a_faulty_chat_is_told_with_its_field(change: dict[str, Any], where: str) -> None:
    assert fault(ChatBody, CHAT | change).startswith(where)


def test_a_list_ends_at_its_first_fault() -> None:
    with pytest.raises(ValidationError) as caught:
        ChatBody.model_validate({"model": "m", "messages": [1] * 1000})
    assert caught.value.error_count() == 1


def test_a_field_that_a_client_made_up_is_told_short_and_printable() -> None:
    assert fault(ChatBody, CHAT | {"x" * 10**6: 1}) == "x" * 40 + "…: Extra inputs are not permitted"
    assert fault(ChatBody, CHAT | {"a\nb\x1b[2J": 1}) == r"'a\nb\x1b[2J': Extra inputs are not permitted"


def test_a_fault_of_the_whole_has_no_field() -> None:
    assert fault(LoadBody, 3).startswith("Input should be")


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 5000])
def test_a_path_that_cannot_be_one(path: str) -> None:
    assert fault(ImportBody, {"path": path}).startswith("path: ")


def test_a_size_may_be_written_as_people_do() -> None:
    assert PlanBody.model_validate({"model": "m", "memory": "512MiB"}).memory == 512 << 20
    assert fault(PlanBody, {"model": "m", "memory": "much"}) == "memory: 'much' is not a size such as 2G or 512M"


@pytest.mark.parametrize("tokens", [0, 15, 1 << 40])
def test_a_context_that_no_plan_has(tokens: int) -> None:
    assert fault(PlanBody, {"model": "m", "context_tokens": tokens}).startswith("context_tokens: ")


def test_formats_are_those_of_packs() -> None:
    assert PullBody.model_validate_json('{"name": "m", "format": "w4"}').format == "w4"
    assert fault(PullBody, {"name": "m", "format": "q4"}).startswith("format: ")

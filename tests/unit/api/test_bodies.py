from typing import Any

import pytest
from pydantic import ValidationError

from tpid.api.bodies import ImportBody, JsonBody, LoadBody, PlanBody, PullBody, first_fault


def fault(kind: type[JsonBody], body: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(body)
    return first_fault(caught.value.errors())[1]


def test_a_fault_of_the_whole_has_no_field() -> None:
    with pytest.raises(ValidationError) as caught:
        LoadBody.model_validate(3)
    field, reason = first_fault(caught.value.errors())
    assert field is None
    assert reason.startswith("Input should be")


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
    assert PullBody.model_validate_json('{"model": "m", "format": "w4"}').format == "w4"
    assert fault(PullBody, {"model": "m", "format": "q4"}).startswith("format: ")

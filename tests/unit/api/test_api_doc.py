"""The tables of docs/api.md: each row is sent, and must come to what it says."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from pydantic import ValidationError

from tpid.api.bodies import first_fault
from tpid.api.chat import generation_request
from tpid.api.chat_body import ChatBody
from tpid.engine.generation import GenerationRequest
from tpid.errors import RequestError

DOCUMENT = Path(__file__).parents[3] / "docs" / "api.md"
CHAT = {"model": "model", "messages": [{"role": "user", "content": "hello"}]}
OF_THE_ANSWER = (
    "model",
    "parallel_tool_calls",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "logprobs",
)


def rows() -> list[tuple[str, str, list[Any], list[Any]]]:
    """Field, what becomes of it, and the values that are taken and refused."""
    found = []
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 5 and cells[1] in ("honoured", "ignored", "no-op"):
            taken, refused = (_values(cell) for cell in cells[2:4])
            found += [(name, cells[1], taken, refused) for name in re.findall(r"`(\w+)`", cells[0])]
    return found


def _values(cell: str) -> list[Any]:
    return [json.loads(text.replace(r"\|", "|")) for text in re.findall(r"`([^`]+)`", cell)]


def request(**changes: Any) -> tuple[ChatBody, GenerationRequest]:
    body = ChatBody.model_validate_json(json.dumps(CHAT | changes))
    return body, replace(generation_request(body), size_bytes=0)


def test_the_table_has_every_field_of_the_body_and_of_openais_client() -> None:
    names = [name for name, *_ in rows()]
    assert len(names) == len(set(names))
    assert set(names) == set(ChatBody.model_fields)
    assert set(CompletionCreateParamsBase.__annotations__) | {"stream"} <= set(names)


@pytest.mark.parametrize(("name", "state", "taken", "refused"), rows(), ids=lambda value: str(value)[:30])
def test_a_row(name: str, state: str, taken: list[Any], refused: list[Any]) -> None:
    default = request()
    for value in taken:
        body, asked = request(**{name: value})
        if state == "honoured":
            assert body != default[0]
            assert name in OF_THE_ANSWER or asked != default[1]
        else:
            assert (body, asked) == default
    if name not in CHAT:
        assert request(**{name: None}) == default
    for value in refused:
        with pytest.raises((ValidationError, RequestError)) as caught:
            request(**{name: value})
        error = caught.value
        told = first_fault(error.errors())[1] if isinstance(error, ValidationError) else error.message
        assert name in told
    assert taken or refused
    assert state != "ignored" or not refused

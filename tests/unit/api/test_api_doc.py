"""The tables of docs/api.md: each row is sent, and must come to what it says."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ollama import Options as OllamasOptions
from ollama._types import ChatRequest, GenerateRequest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from openai.types.responses.response_create_params import ResponseCreateParamsBase
from pydantic import ValidationError

from tpid.api.asked import generation_request
from tpid.api.bodies import PromptBody, first_fault
from tpid.api.chat_body import ChatBody
from tpid.api.ollama import bodies as ollama
from tpid.api.ollama.options import Options
from tpid.api.responses.body import ResponsesBody
from tpid.engine.generation import GenerationRequest
from tpid.errors import RequestError

DOCUMENT = Path(__file__).parents[3] / "docs" / "api.md"
CHAT: dict[str, Any] = {"model": "model", "messages": [{"role": "user", "content": "hello"}]}
RESPONSE: dict[str, Any] = {"model": "model", "input": "hello"}
GENERATE: dict[str, Any] = {"model": "model", "prompt": "hello"}
OF_THE_ANSWER = (
    "model",
    "parallel_tool_calls",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "logprobs",
    "metadata",
)


@dataclass(frozen=True)
class Row:
    """A field of a table, what becomes of it, and the values that are taken and refused."""

    table: str  # its heading
    name: str
    state: str
    taken: list[Any]
    refused: list[Any]

    def __str__(self) -> str:
        return f"{self.table}: {self.name}"


def rows() -> list[Row]:
    found = []
    heading = ""
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 5 and cells[1] in ("honoured", "ignored", "no-op"):
            taken, refused = (_values(cell) for cell in cells[2:4])
            found += [Row(heading, name, cells[1], taken, refused) for name in re.findall(r"`(\w+)`", cells[0])]
    return found


def _values(cell: str) -> list[Any]:
    return [json.loads(text.replace(r"\|", "|")) for text in re.findall(r"`([^`]+)`", cell)]


@dataclass(frozen=True)
class Table:
    """What its rows are sent in."""

    kind: Any
    base: dict[str, Any]
    within: str | None = None  # the field whose parts the rows are

    def request(self, **changes: Any) -> tuple[PromptBody, GenerationRequest]:
        sent = changes if self.within is None else {self.within: changes}
        body = self.kind.model_validate_json(json.dumps(self.base | sent))
        return body, replace(generation_request(body), size_bytes=0)


TABLES = {
    "Chat completions": [Table(ChatBody, CHAT)],
    "Responses": [Table(ResponsesBody, RESPONSE)],
    "Of /api/chat and /api/generate": [Table(ollama.ChatBody, CHAT), Table(ollama.GenerateBody, GENERATE)],
    "Of /api/chat": [Table(ollama.ChatBody, CHAT)],
    "Of /api/generate": [Table(ollama.GenerateBody, GENERATE)],
    "Options": [Table(ollama.ChatBody, CHAT, "options"), Table(ollama.GenerateBody, GENERATE, "options")],
}


def names(*tables: str) -> list[str]:
    return [row.name for row in rows() if row.table in tables]


def fields(kind: Any) -> set[str]:
    return {field.alias or name for name, field in kind.model_fields.items()}


@pytest.mark.parametrize(
    ("tables", "kind", "client"),
    [
        (["Chat completions"], ChatBody, {*CompletionCreateParamsBase.__annotations__, "stream"}),
        (["Responses"], ResponsesBody, {*ResponseCreateParamsBase.__annotations__, "stream"}),
        (["Of /api/chat and /api/generate", "Of /api/chat"], ollama.ChatBody, ChatRequest.model_fields),
        (["Of /api/chat and /api/generate", "Of /api/generate"], ollama.GenerateBody, GenerateRequest.model_fields),
        (["Options"], Options, OllamasOptions.model_fields),
    ],
)
def test_a_table_has_every_field_of_the_body_and_of_the_client(
    tables: Sequence[str], kind: Any, client: Sequence[str]
) -> None:
    told = names(*tables)
    assert len(told) == len(set(told))
    assert set(told) == fields(kind)
    assert set(client) <= set(told)


@pytest.mark.parametrize("row", rows(), ids=str)
def test_a_row(row: Row) -> None:
    assert row.taken or row.refused
    assert row.state != "ignored" or not row.refused
    for table in TABLES[row.table]:
        default = table.request()
        for value in row.taken:
            body, asked = table.request(**{row.name: value})
            if row.state == "honoured":
                assert body != default[0]
                assert row.name in OF_THE_ANSWER or asked != default[1]
            else:
                assert (body, asked) == default
        if row.name not in table.base:
            assert table.request(**{row.name: None}) == default
        for value in row.refused:
            with pytest.raises((ValidationError, RequestError)) as caught:
                table.request(**{row.name: value})
            error = caught.value
            told = first_fault(error.errors())[1] if isinstance(error, ValidationError) else error.message
            assert row.name in told

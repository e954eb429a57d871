import json
from typing import Any

import pytest

from tests.unit.api.test_chat_body import body, fault
from tpid.engine.constraint import Grammar

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("response_format", "grammar"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, Grammar(json_schema='{"type": "object"}')),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, Grammar(json_schema='{"type": "object"}')),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}},
            Grammar(json_schema=json.dumps(SCHEMA)),
        ),
        ({"type": "grammar", "grammar": 'start: "a"'}, Grammar(lark='start: "a"')),
    ],
)
def test_forms(response_format: Any, grammar: Grammar | None) -> None:
    assert body(response_format=response_format).grammar == grammar


@pytest.mark.parametrize(
    "response_format",
    [3, {}, {"type": "xml"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {"a": 1}}],
)
def test_what_is_no_form(response_format: Any) -> None:
    field, _ = fault(response_format=response_format)
    assert str(field).startswith("response_format")

"""`response_format`: the form that an answer must have."""

import json
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from tpid.api.bodies import JsonBody
from tpid.api.fields import Opaque
from tpid.engine.constraint import Grammar

_ANY_OBJECT = {"type": "object"}


class TextFormat(JsonBody):
    type: Literal["text"]


class JsonObjectFormat(JsonBody):
    type: Literal["json_object"]


class NamedSchema(JsonBody):
    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | bool | None, Field(alias="schema")] = None
    strict: Opaque = None  # answers obey in any case


class JsonSchemaFormat(JsonBody):
    type: Literal["json_schema"]
    json_schema: NamedSchema


class GrammarFormat(JsonBody):
    """Ours: a grammar in Lark's notation, as llguidance has it."""

    type: Literal["grammar"]
    grammar: str


ResponseFormat: TypeAlias = TextFormat | JsonObjectFormat | JsonSchemaFormat | GrammarFormat


def grammar_of(format: ResponseFormat | None) -> Grammar | None:
    match format:
        case JsonObjectFormat():
            return Grammar(json_schema=json.dumps(_ANY_OBJECT))
        case JsonSchemaFormat(json_schema=NamedSchema(schema_=schema)):
            return Grammar(json_schema=json.dumps(_ANY_OBJECT if schema is None else schema))
        case GrammarFormat(grammar=text):
            return Grammar(lark=text)
    return None

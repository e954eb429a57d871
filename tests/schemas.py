"""JSON schemas of many forms, by seed, none of them with endless answers; and the judge of what is written by them."""

import json
import random
from collections.abc import Iterator
from typing import Any

import jsonschema

Schema = dict[str, Any]

_NAMES = ("id", "name", "größe", "a b", 'quo"te', "x")
_FORMATS = ("date", "time", "date-time", "uuid", "ipv4", "email")


class Schemas:
    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)

    def __iter__(self) -> Iterator[Schema]:
        while True:
            yield {**self._value(3), "$defs": {"leaf": {"type": "string", "pattern": "^[a-f]{2,4}$"}}}

    def _value(self, depth: int) -> Schema:
        simple = [self._string, self._formatted, self._integer, self._plain, self._enum, self._const, self._nullable]
        nested = [self._object, self._record, self._array, self._tuple, self._any_of, self._all_of]
        return self._chance.choice(simple + nested if depth else simple)(depth)

    def _string(self, depth: int) -> Schema:
        plain = {"type": "string", "minLength": self._chance.randint(0, 3), "maxLength": 8}
        return self._chance.choice([plain, {"$ref": "#/$defs/leaf"}])

    def _formatted(self, depth: int) -> Schema:
        return {"type": "string", "format": self._chance.choice(_FORMATS)}

    def _integer(self, depth: int) -> Schema:
        low = self._chance.randint(-50, 50)
        open_low = {"exclusiveMinimum": low - 1} if self._chance.random() < 0.3 else {"minimum": low}
        return {"type": "integer", **open_low, "maximum": low + self._chance.randint(0, 500)}

    def _plain(self, depth: int) -> Schema:
        return {"type": self._chance.choice(["number", "boolean", "null"])}

    def _enum(self, depth: int) -> Schema:
        return {"enum": self._chance.sample(["a", "b", 1, True, None, 2.5], 3)}

    def _const(self, depth: int) -> Schema:
        return {"const": self._chance.choice(["x", 7, None, {"k": 1}])}

    def _nullable(self, depth: int) -> Schema:
        return {"type": ["integer", "null"], "minimum": 0, "maximum": self._chance.randint(0, 99)}

    def _object(self, depth: int) -> Schema:
        names = self._chance.sample(_NAMES, self._chance.randint(0, 4))
        required = [name for name in names if self._chance.random() < 0.7]
        properties = {name: self._value(depth - 1) for name in names}
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    def _record(self, depth: int) -> Schema:
        """Any keys, and values of one kind."""
        return {"type": "object", "additionalProperties": self._value(0)}

    def _array(self, depth: int) -> Schema:
        low = self._chance.randint(0, 2)
        return {"type": "array", "items": self._value(depth - 1), "minItems": low, "maxItems": low + 2}

    def _tuple(self, depth: int) -> Schema:
        items = [self._value(depth - 1) for _ in range(self._chance.randint(1, 3))]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}

    def _any_of(self, depth: int) -> Schema:
        return {"anyOf": [self._value(depth - 1), self._value(depth - 1)]}

    def _all_of(self, depth: int) -> Schema:
        low = self._chance.randint(0, 9)
        return {"allOf": [{"type": "integer", "minimum": low}, {"maximum": low + self._chance.randint(0, 90)}]}


def check(text: str, schema: Schema) -> None:
    """Raises jsonschema.ValidationError, or ValueError where it is no JSON."""
    judge = jsonschema.Draft202012Validator
    judge(schema, format_checker=judge.FORMAT_CHECKER).validate(json.loads(text))

"""Answers drawn at random from what a grammar allows; jsonschema is the judge."""

import json
import random
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import jsonschema
import numpy as np
import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as RawTokenizer

from tpid.errors import RequestError
from tpid.model.grammar import MAX_SOURCE_CHARS, GrammarMatcher, GrammarTokens
from tpid.model.token_bytes import token_bytes
from tpid.model.tokenizer import Tokenizer

MERGES = [("{", '"'), ('"', ":"), ('"', ","), ("1", "2"), ("t", "r"), ("tr", "ue"), ("u", "e"), ('"', "}"), ("Ġ", '"')]
END = "<|end|>"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    merged = ["".join(pair) for pair in MERGES]
    order = [MERGES[6], *MERGES[:6], *MERGES[7:]]  # `ue` before `true`
    vocab = {token: id for id, token in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), *merged])}
    raw = RawTokenizer(models.BPE(vocab, order))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_tokens([AddedToken(END, special=True), AddedToken("<|other|>", special=True)])
    return Tokenizer.from_json(raw.to_str().encode())


@pytest.fixture(scope="module")
def tokens(tokenizer: Tokenizer) -> GrammarTokens:
    return GrammarTokens(tokenizer, [end_of(tokenizer)])


def end_of(tokenizer: Tokenizer) -> int:
    id = tokenizer.token_to_id(END)
    assert id is not None
    return id


def allowed(matcher: GrammarMatcher) -> list[int]:
    mask = np.frombuffer(matcher.mask(), np.uint8)
    return list(np.flatnonzero(np.unpackbits(mask, bitorder="little")))


def draw(tokenizer: Tokenizer, matcher: GrammarMatcher, seed: int, patience: int = 50) -> str:
    """An answer; an end is taken where there is one after `patience` tokens, and half of the ends before."""
    chance = random.Random(seed)
    text = b""
    for step in range(4000):
        ids = allowed(matcher)
        if end_of(tokenizer) in ids and (step > patience or chance.random() < 0.5):
            return text.decode()
        if not ids:
            return text.decode()
        closing = [id for id in ids if set(token_bytes(tokenizer, id)) <= set(b'"}],:{[0123456789')]
        id = int(chance.choice(closing if closing and chance.random() < 0.7 else ids))
        if id == end_of(tokenizer):
            return text.decode()
        matcher.accept(id)
        text += token_bytes(tokenizer, id)
    raise AssertionError(f"no end after {text!r}")


class Schemas:
    """Of many forms, none of them with endless answers."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            yield {**self._value(3), "$defs": {"leaf": {"type": "string", "pattern": "^[a-f]{2,4}$"}}}

    def _value(self, depth: int) -> dict[str, Any]:
        simple = [self._string, self._integer, self._plain, self._enum, self._const]
        nested = [self._object, self._array, self._any_of]
        return self._chance.choice(simple + nested if depth else simple)(depth)

    def _string(self, depth: int) -> dict[str, Any]:
        return self._chance.choice([{"type": "string", "maxLength": 8}, {"$ref": "#/$defs/leaf"}])

    def _integer(self, depth: int) -> dict[str, Any]:
        low = self._chance.randint(-50, 50)
        return {"type": "integer", "minimum": low, "maximum": low + self._chance.randint(0, 500)}

    def _plain(self, depth: int) -> dict[str, Any]:
        return {"type": self._chance.choice(["number", "boolean", "null"])}

    def _enum(self, depth: int) -> dict[str, Any]:
        return {"enum": self._chance.sample(["a", "b", 1, True, None, 2.5], 3)}

    def _const(self, depth: int) -> dict[str, Any]:
        return {"const": self._chance.choice(["x", 7, None, {"k": 1}])}

    def _object(self, depth: int) -> dict[str, Any]:
        names = self._chance.sample(["id", "name", "größe", "a b", "x"], self._chance.randint(0, 4))
        required = [name for name in names if self._chance.random() < 0.7]
        properties = {name: self._value(depth - 1) for name in names}
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    def _array(self, depth: int) -> dict[str, Any]:
        low = self._chance.randint(0, 2)
        return {"type": "array", "items": self._value(depth - 1), "minItems": low, "maxItems": low + 2}

    def _any_of(self, depth: int) -> dict[str, Any]:
        return {"anyOf": [self._value(depth - 1), self._value(depth - 1)]}


def test_whatever_is_drawn_obeys_the_schema(tokenizer: Tokenizer, tokens: GrammarTokens) -> None:
    for seed, schema in enumerate(islice(Schemas(0), 500)):
        matcher = GrammarMatcher(tokens, {"json_schema": json.dumps(schema)})
        text = draw(tokenizer, matcher, seed)
        jsonschema.validate(json.loads(text), schema)


def test_any_object(tokenizer: Tokenizer, tokens: GrammarTokens) -> None:
    for seed in range(5):
        matcher = GrammarMatcher(
            tokens, {"json_schema": '{"type": "object", "additionalProperties": {"type": "null"}}'}
        )
        assert isinstance(json.loads(draw(tokenizer, matcher, seed)), dict)


def test_blanks_come_to_an_end(tokenizer: Tokenizer, tokens: GrammarTokens) -> None:
    matcher = GrammarMatcher(tokens, {"json_schema": '{"type": "object"}'})
    (brace,) = tokenizer.encode("{", add_special=False)
    matcher.accept(brace)
    (blank,) = tokenizer.encode(" ", add_special=False)
    n_blanks = 0
    while blank in allowed(matcher):
        matcher.accept(blank)
        n_blanks += 1
    assert 4 <= n_blanks <= 32


def test_a_grammar_of_its_own(tokenizer: Tokenizer, tokens: GrammarTokens) -> None:
    for seed in range(5):
        assert draw(tokenizer, GrammarMatcher(tokens, {"lark": 'start: "yes" | "no"'}), seed) in ("yes", "no")


def test_special_tokens_are_not_text(tokenizer: Tokenizer, tokens: GrammarTokens) -> None:
    matcher = GrammarMatcher(tokens, {"lark": "start: /(.|\\n)*/"})
    assert tokenizer.token_to_id("<|other|>") not in allowed(matcher)
    assert end_of(tokenizer) in allowed(matcher)


def test_a_model_without_an_end_has_nothing_left_there(tokenizer: Tokenizer) -> None:
    matcher = GrammarMatcher(GrammarTokens(tokenizer, []), {"lark": 'start: "a"'})
    (a,) = allowed(matcher)
    matcher.accept(a)
    assert [id for id in allowed(matcher) if id <= tokenizer.max_id] == []


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        ({"json_schema": '{"type": "nonsense"}'}, "nonsense"),
        ({"json_schema": '{"type": "string", "pattern": "(a"}'}, "unclosed group"),
        ({"json_schema": '{"uniqueItems": true}'}, "uniqueItems"),
        ({"json_schema": '{"$ref": "http://elsewhere.example/x"}'}, "elsewhere"),
        ({"json_schema": "3"}, ""),
        ({"json_schema": "{"}, ""),
        ({"json_schema": "false"}, ""),
        ({"lark": "start: nothing"}, "nothing"),
        ({"lark": ""}, ""),
        ({"lark": "x" * (MAX_SOURCE_CHARS + 1)}, "more than"),
    ],
)
def test_what_cannot_be_is_one_error(tokens: GrammarTokens, grammar: Mapping[str, str], words: str) -> None:
    with pytest.raises(RequestError) as caught:
        GrammarMatcher(tokens, grammar).mask()
    assert words in caught.value.message
    assert len(caught.value.message) < 500


def test_a_token_that_may_not_come_is_an_error(tokenizer: Tokenizer, tokens: GrammarTokens) -> None:
    matcher = GrammarMatcher(tokens, {"lark": 'start: "a"'})
    (b,) = tokenizer.encode("b", add_special=False)
    with pytest.raises(RequestError):
        matcher.accept(b)

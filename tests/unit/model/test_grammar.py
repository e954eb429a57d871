"""Answers drawn at random from what a grammar allows; jsonschema is the judge. `TPID_SCHEMAS` gives more schemas."""

import json
import os
import random
from collections.abc import Mapping
from itertools import islice

import numpy as np
import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as RawTokenizer

from tests.schemas import Schemas, check
from tpid.errors import RequestError
from tpid.model.grammar import MAX_SOURCE_CHARS, GrammarMatcher, GrammarTokens
from tpid.model.token_bytes import token_bytes
from tpid.model.tokenizer import Tokenizer

MERGES = [("{", '"'), ('"', ":"), ('"', ","), ("1", "2"), ("t", "r"), ("tr", "ue"), ("u", "e"), ('"', "}"), ("Ġ", '"')]
END = "<|end|>"
N_SCHEMAS = int(os.environ.get("TPID_SCHEMAS", "100"))


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


def test_whatever_is_drawn_obeys_the_schema(tokenizer: Tokenizer, tokens: GrammarTokens) -> None:
    for seed, schema in enumerate(islice(Schemas(0), N_SCHEMAS)):
        matcher = GrammarMatcher(tokens, {"json_schema": json.dumps(schema)})
        text = draw(tokenizer, matcher, seed)
        check(text, schema)


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

"""Calls drawn at random from the grammar: the parser finds them, and jsonschema judges their arguments."""

import json

import jsonschema
import pytest

from tests.unit.model.test_grammar import allowed, draw, end_of, tokenizer, tokens
from tpid.model.grammar import GrammarMatcher, GrammarTokens
from tpid.model.tokenizer import Tokenizer
from tpid.model.tool_calls import Piece, ToolCall, parser_of
from tpid.model.tool_format import ToolFormat, ToolUse
from tpid.model.tool_grammar import MAX_CALLS, tool_grammar

__all__ = ["tokenizer", "tokens"]

ADD = {
    "name": "add",
    "parameters": {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/n"}, "b": {"$ref": "#/$defs/n"}},
        "required": ["a", "b"],
        "additionalProperties": False,
        "$defs": {"n": {"type": "integer", "minimum": 0, "maximum": 999}},
    },
}
STOP = {"name": "stop"}
SCHEMAS = {"add": ADD["parameters"], "stop": {"type": "object", "maxProperties": 0}}
TOOLS = tuple({"type": "function", "function": function} for function in (ADD, STOP))


def calls_in(format: ToolFormat, text: str) -> list[ToolCall]:
    parser = parser_of(format, SCHEMAS)
    pieces: list[Piece] = [*parser.push(text), *parser.finish()]
    assert all(isinstance(piece, ToolCall) for piece in pieces), text
    return [piece for piece in pieces if isinstance(piece, ToolCall)]


@pytest.mark.parametrize("format", ToolFormat)
@pytest.mark.parametrize("parallel", [False, True])
def test_whatever_is_drawn_is_calls(
    tokenizer: Tokenizer, tokens: GrammarTokens, format: ToolFormat, parallel: bool
) -> None:
    grammar = tool_grammar(ToolUse(TOOLS, required=True, parallel=parallel), format, None)
    counts = set()
    for seed in range(20):
        calls = calls_in(format, draw(tokenizer, GrammarMatcher(tokens, {"lark": grammar}), seed, patience=400))
        for call in calls:
            jsonschema.validate(json.loads(call.arguments), SCHEMAS[call.name])
        counts.add(len(calls))
    assert counts <= set(range(1, MAX_CALLS + 1 if parallel else 2))
    assert (max(counts) > 1) == (parallel and format is not ToolFormat.BARE)


def test_a_mark_that_is_one_token_comes_as_that_token(tokenizer: Tokenizer, tokens: GrammarTokens) -> None:
    mark_id = end_of(tokenizer) + 1
    grammar = tool_grammar(ToolUse(TOOLS, required=True), ToolFormat.LISTED, mark_id)
    assert allowed(GrammarMatcher(tokens, {"lark": grammar})) == [mark_id]


def test_an_answer_by_schema_may_come_in_the_place_of_calls(tokenizer: Tokenizer, tokens: GrammarTokens) -> None:
    schema = json.dumps({"const": {"x": 1}})
    for format in (ToolFormat.TAGGED, ToolFormat.BARE):
        grammar = tool_grammar(ToolUse(TOOLS), format, None, schema)
        texts = {draw(tokenizer, GrammarMatcher(tokens, {"lark": grammar}), seed) for seed in range(40)}
        answers = {text for text in texts if '"x"' in text}
        assert all(json.loads(text) == {"x": 1} for text in answers)
        assert answers
        assert texts - answers
        for text in texts - answers:
            assert calls_in(format, text)

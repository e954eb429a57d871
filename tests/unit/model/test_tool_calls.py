import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpid.model.tool_calls import Piece, ToolCall, parser_of
from tpid.model.tool_format import ToolFormat

ONE = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
TWO = '<tool_call>\n{"name": "say", "arguments": {"text": "é <b>"}}\n</tool_call>'
ADD = ("add", {"a": 1})
SAY = ("say", {"text": "é <b>"})


def parsed(format: ToolFormat, *texts: str) -> tuple[str, list[tuple[str, object]]]:
    """The text, and name and arguments of the calls."""
    parser = parser_of(format, {"add", "say"})
    pieces: list[Piece] = []
    for text in texts:
        pieces += parser.push(text)
    pieces += parser.finish()
    calls = [(piece.name, json.loads(piece.arguments)) for piece in pieces if isinstance(piece, ToolCall)]
    return "".join(piece for piece in pieces if isinstance(piece, str)), calls


CASES = [
    (ToolFormat.TAGGED, "", "", []),
    (ToolFormat.TAGGED, "Hello\n", "Hello\n", []),
    (ToolFormat.TAGGED, "a <tool_cal b", "a <tool_cal b", []),
    (ToolFormat.TAGGED, ONE, "", [ADD]),
    (ToolFormat.TAGGED, f"{ONE}\n{TWO}\n", "", [ADD, SAY]),
    (ToolFormat.TAGGED, f"Let me see.\n\n{ONE}", "Let me see.", [ADD]),
    (ToolFormat.TAGGED, f"{ONE}\nDone.", "\nDone.", [ADD]),
    (ToolFormat.TAGGED, ONE.removesuffix("</tool_call>"), "", [ADD]),
    (ToolFormat.TAGGED, '<tool_call>{"name": "add"}</tool_call>', "", [("add", {})]),
    (ToolFormat.TAGGED, "<tool_call>\nno JSON\n</tool_call>", "<tool_call>\nno JSON\n</tool_call>", []),
    (ToolFormat.TAGGED, "<tool_call>{", "<tool_call>{", []),
    (ToolFormat.DESCRIBED, ONE, "", [ADD]),
    (ToolFormat.BARE, '{"name": "add", "parameters": {"a": 1}}', "", [ADD]),
    (ToolFormat.BARE, '\n {"name": "add", "arguments": {"a": 1}}\n', "", [ADD]),
    (ToolFormat.BARE, '{"name": "none", "parameters": {}}', '{"name": "none", "parameters": {}}', []),
    (ToolFormat.BARE, '{"a": 1}', '{"a": 1}', []),
    (ToolFormat.BARE, "{not JSON", "{not JSON", []),
    (ToolFormat.BARE, "Hello {}", "Hello {}", []),
    (ToolFormat.BARE, "  ", "  ", []),
    (ToolFormat.LISTED, '[TOOL_CALLS][{"name": "add", "arguments": {"a": 1}}]', "", [ADD]),
    (
        ToolFormat.LISTED,
        'Well. [TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}, "id": "123456789"}, '
        '{"name": "say", "arguments": {"text": "é <b>"}}]',
        "Well.",
        [ADD, SAY],
    ),
    (ToolFormat.LISTED, "[TOOL_CALLS] none", "[TOOL_CALLS] none", []),
    (ToolFormat.LISTED, "a [TOOL", "a [TOOL", []),
]


@pytest.mark.parametrize(("format", "text", "shown", "calls"), CASES)
def test_calls_are_found_however_the_text_is_cut(
    format: ToolFormat, text: str, shown: str, calls: list[tuple[str, object]]
) -> None:
    assert parsed(format, text) == (shown, calls)
    assert parsed(format, *text) == (shown, calls)


@given(
    st.lists(st.sampled_from([ONE, TWO, "<tool_call>", "</tool_call>", "text ", "\n", "<", "[TOOL_CALLS]", "[", "{"])),
    st.sampled_from(ToolFormat),
    st.integers(1, 7),
)
def test_the_cuts_make_no_difference(parts: list[str], format: ToolFormat, size: int) -> None:
    text = "".join(parts)
    whole = parsed(format, text)
    assert parsed(format, *(text[at : at + size] for at in range(0, len(text), size))) == whole


@given(st.text())
def test_text_without_calls_passes(text: str) -> None:
    for format in ToolFormat:
        assert parsed(format, text) == (text, [])


def test_text_is_not_held_for_long() -> None:
    parser = parser_of(ToolFormat.TAGGED, {"add"})
    assert parser.push("Hello, wor") == ["Hello, wor"]
    assert parser.push("ld <") == ["ld"]
    assert parser.push("b>") == [" <b>"]


def test_each_call_has_an_id_of_nine_letters_and_digits() -> None:
    parser = parser_of(ToolFormat.TAGGED, ())
    first, second = [piece for piece in parser.push(ONE + ONE) if isinstance(piece, ToolCall)]
    assert first.id != second.id
    assert len(first.id) == 9
    assert first.id.isalnum()


def test_arguments_that_are_a_string_are_taken_as_they_are() -> None:
    (call,) = parser_of(ToolFormat.TAGGED, ()).push('<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>')
    assert isinstance(call, ToolCall)
    assert call.arguments == '{"a": 1}'

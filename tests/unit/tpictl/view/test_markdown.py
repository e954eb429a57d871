import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tpictl.view.markdown import finished_blocks, markdown_lines


def _shown(text: str, width: int = 30) -> list[str]:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="truecolor")
    return ["".join(segment.text for segment in line) for line in markdown_lines(console, text, width)]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("\n \n", []),
        ("The quick brown fox jumps over the lazy dog.", ["The quick brown fox jumps over", "the lazy dog."]),
        ("# Title\ntext", ["Title", "", "text"]),
        ("roses\nviolets", ["roses", "violets"]),
        ("9. nine\n10. ten\n    more", [" 9. nine", "10. ten", "    more"]),
        ("- a\n  - b", [" • a", "    • b"]),
        ("```c\nint x;\n```", ["  int x;"]),
        ("<think>why</think> &lt;b&gt; <kbd>k</kbd>", ["<think>why</think> <b>", "<kbd>k</kbd>"]),
        ("<div>\ntext\n</div>", ["<div>", "text", "</div>"]),
        ("[a]: http://x.org", ["[a]: http://x.org"]),
        ("[a](http://x.org)", ["a (http://x.org)"]),
        ("a &#x202e; \x1b[31m b", ["a \N{REPLACEMENT CHARACTER} \N{REPLACEMENT CHARACTER}[31m b"]),
        ("| a | b |\n|---|---|\n| 1 | 2 |\n\nend", [" a  b", " ────", " 1  2", "", "end"]),
    ],
)
def test_what_is_shown(text: str, lines: list[str]) -> None:
    assert _shown(text) == lines


@pytest.mark.parametrize(
    ("text", "blocks", "rest"),
    [
        ("a", [], "a"),
        ("a\n\nb", [], "a\n\nb"),  # b may become the underline of a heading, or anything
        ("a\n\nb\n", ["a"], "b\n"),
        ("a\n#", [], "a\n#"),  # "#tag" would go on with the paragraph
        ("- a\n\n  b\n", [], "- a\n\n  b\n"),
        ("```\na\n\nb\n", [], "```\na\n\nb\n"),
        ("# A\n\nb\n\n```\nc", ["# A", "b"], "```\nc"),
    ],
)
def test_only_what_cannot_change_is_finished(text: str, blocks: list[str], rest: str) -> None:
    assert finished_blocks(text) == (blocks, rest)


MARKS = st.text(st.sampled_from("ab 1\n\n#*_-`>|[]()<&;.~\\\t"), max_size=60)


@given(MARKS)
def test_cut_into_blocks_it_looks_the_same(text: str) -> None:
    shown: list[str] = []
    rest = ""
    for char in text:
        blocks, rest = finished_blocks(rest + char)
        for block in blocks:
            shown += [*_shown(block), ""]
    shown = [line for line in [*shown, *_shown(rest)] if line]
    assert shown == [line for line in _shown(text) if line]


@given(st.text(max_size=80), st.integers(1, 30))
def test_any_text_at_any_width_fits_and_commands_nothing(text: str, width: int) -> None:
    for line in _shown(text, width):
        assert "\x1b" not in line
        assert "\n" not in line

"""Markdown of a model, as lines for a terminal: nothing of it is lost, and nothing of it commands the terminal."""

from collections.abc import Sequence
from typing import ClassVar, TypeAlias

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, ListItem, Markdown, MarkdownElement
from rich.segment import Segment
from rich.style import Style
from rich.syntax import Syntax

from tpictl.printable import printable_line, printable_text

ScreenLine: TypeAlias = Sequence[Segment]  # without a newline

_THEME = "ansi_dark"  # the terminal's own colours


def _parser() -> MarkdownIt:
    """Tags and definitions of references are text here, as everything that would not be seen otherwise."""
    return MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"]).disable("reference")


def finished_blocks(text: str) -> tuple[list[str], str]:
    """The blocks at the beginning of `text` that nothing that follows can change, and the rest.

    Only whole lines count: a line that has only begun may still turn into anything.
    """
    whole, newline, begun = text.rpartition("\n")
    *blocks, last = _blocks(whole) or [""]
    return (blocks, last + newline + begun) if blocks else ([], text)


def markdown_lines(console: Console, text: str, width: int) -> list[ScreenLine]:
    """At most `width` columns wide, with an empty line between blocks; none for text of spaces."""
    options = console.options.update(width=max(width, 1))
    lines: list[ScreenLine] = []
    for block in _blocks(printable_text(text)):
        rendered = [_trimmed([_safe(s) for s in line]) for line in console.render_lines(_Markdown(block), options)]
        filled = [number for number, line in enumerate(rendered) if line]
        if filled:
            lines += [*([[]] if lines else []), *rendered[filled[0] : filled[-1] + 1]]
    return lines


def _blocks(text: str) -> list[str]:
    """The paragraphs, lists, tables and so on; empty lines between them are left out, those behind the last stay."""
    lines = text.split("\n")
    starts = [token.map[0] for token in _parser().parse(text) if token.level == 0 and token.nesting >= 0 and token.map]
    spans = zip(starts, [*starts[1:], len(lines)], strict=False)
    blocks = ["\n".join(lines[start:stop]) for start, stop in spans]
    return [block.rstrip("\n") for block in blocks[:-1]] + blocks[-1:]


def _safe(segment: Segment) -> Segment:
    """Character references such as `&#x202e;` are resolved by the parser, behind the back of `printable_text`."""
    return Segment(printable_line(segment.text), segment.style)


def _trimmed(line: list[Segment]) -> list[Segment]:
    """Without spaces at the end, which would only be copied along."""
    while line and not line[-1].text.strip():
        line.pop()
    if line:
        line[-1] = Segment(line[-1].text.rstrip(), line[-1].style)
    return line


class _Heading(Heading):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text = self.text.copy()
        text.justify = "left"
        text.stylize("bold underline" if self.tag in {"h1", "h2"} else "bold")
        yield text


class _CodeBlock(CodeBlock):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        code = str(self.text).rstrip()
        yield Syntax(
            code, self.lexer_name, theme=self.theme, word_wrap=True, background_color="default", padding=(0, 2)
        )


class _ListItem(ListItem):
    def render_number(self, console: Console, options: ConsoleOptions, number: int, last_number: int) -> RenderResult:
        bullet = f"{number:>{len(str(last_number))}}. "
        style = console.get_style("markdown.item.number", default="none")
        lines = console.render_lines(self.elements, options.update(width=max(options.max_width - len(bullet), 1)))
        for index, line in enumerate(lines):
            yield Segment(bullet if index == 0 else " " * len(bullet), style)
            yield from line
            yield Segment.line()


class _Markdown(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _Heading,
        "fence": _CodeBlock,
        "code_block": _CodeBlock,
        "list_item_open": _ListItem,
    }

    def __init__(self, text: str) -> None:
        super().__init__("", code_theme=_THEME, hyperlinks=False, style=Style.null())
        self.markup = text
        self.parsed = [_with_line_ends(token) for token in _parser().parse(text)]


def _with_line_ends(token: Token) -> Token:
    """Lines of a poem or an address stay lines."""
    for child in token.children or ():
        if child.type == "softbreak":
            child.type, child.tag = "hardbreak", "br"
    return token

import io

import pyte
from rich.console import Console

from tpictl.view.answer_view import MarkdownView, PlainView


class Painted:
    """A view that is painted when a test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.file = io.StringIO()
        console = Console(file=self.file, width=60, height=20, force_terminal=True, highlight=False)
        self.view = MarkdownView(console, lambda: self.now_s)

    def lines(self, *, at_end: bool = False) -> list[str]:
        self.view.paint(at_end=at_end)
        screen = pyte.Screen(60, 20)
        pyte.Stream(screen).feed(self.file.getvalue())
        return "\n".join(line.rstrip() for line in screen.display).rstrip().split("\n")


def test_what_is_done_and_for_how_long() -> None:
    painted = Painted()
    assert painted.lines() == [""]
    painted.view.tell("2nd in the queue")
    assert painted.lines() == ["2nd in the queue"]
    painted.now_s = 12.0
    assert painted.lines() == ["2nd in the queue · 12 s"]


def test_how_fast_text_comes() -> None:
    painted = Painted()
    painted.view.tell("reading the prompt")
    painted.view.write("\n\nOne")
    assert painted.lines() == ["One"]
    painted.now_s = 0.5
    painted.view.write(" two")
    painted.now_s = 1.0
    painted.view.write(" three")
    assert painted.lines() == ["One two three", "2 tok/s"]
    painted.view.tell("reading the prompt 50 %")  # anew, without a device
    assert painted.lines() == ["One two three", "reading the prompt 50 %"]
    assert painted.lines(at_end=True) == ["One two three"]


def test_what_happens_stands_behind_the_block_that_was_written_then() -> None:
    painted = Painted()
    painted.view.write("One")
    painted.view.note("desktop left.")
    assert painted.lines() == ["One", "desktop left."]
    painted.view.write(" two.\n\nThree\n")
    assert painted.lines() == ["One two.", "", "desktop left.", "", "Three"]
    assert painted.lines(at_end=True) == ["One two.", "", "desktop left.", "", "Three"]


def test_text_as_it_is(capsys: object) -> None:
    notes = io.StringIO()
    with PlainView(Console(file=notes, width=60)) as view:
        view.tell("waiting")
        view.write("**One**\x1b[31m")
        view.note("desktop left.")
        view.write("two")
    shown = capsys.readouterr().out  # type: ignore[attr-defined]
    assert shown == "**One**\N{REPLACEMENT CHARACTER}[31m\ntwo\n"
    assert notes.getvalue() == "desktop left.\n"

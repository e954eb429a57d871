import io

import pyte
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.segment import Segment

from tpictl.view.live_region import LiveRegion

COLUMNS, ROWS = 20, 6
LINES = st.lists(st.text("ab", max_size=COLUMNS - 1), max_size=ROWS + 2)


class Seen:
    """A region, and the screen that it is painted on."""

    def __init__(self, columns: int = COLUMNS) -> None:
        self.file = io.StringIO()
        self.console = Console(file=self.file, width=columns, height=ROWS, force_terminal=True, highlight=False)
        self.region = LiveRegion(self.console)
        self.screen = pyte.HistoryScreen(columns, ROWS, history=1000)
        self.stream = pyte.Stream(self.screen)

    def update(self, staying: list[str], changing: list[str]) -> str:
        """Gives what was written."""
        self.file.seek(0)
        self.file.truncate()
        self.region.update([[Segment(text)] for text in staying], [[Segment(text)] for text in changing])
        written = self.file.getvalue()
        self.stream.feed(written)
        return written

    def lines(self) -> list[str]:
        gone = ["".join(row[column].data for column in range(COLUMNS)) for row in self.screen.history.top]
        return [line.rstrip() for line in [*gone, *self.screen.display]]


@given(st.lists(st.tuples(LINES, LINES), max_size=8))
def test_what_stays_and_what_changes_are_where_they_belong(updates: list[tuple[list[str], list[str]]]) -> None:
    seen, stayed = Seen(), list[str]()
    for staying, changing in updates:
        seen.update(staying, changing)
        stayed += staying
        expected = [*stayed, *changing[-(ROWS - 1) :]]
        lines = seen.lines()
        assert lines[: len(expected)] == expected
        assert not any(lines[len(expected) :])


def test_what_is_the_same_is_not_written_again() -> None:
    seen = Seen()
    seen.update([], ["one", "two"])
    assert seen.update([], ["one", "two"]) == ""
    assert "one" not in seen.update([], ["one", "two more"])
    assert "one" not in seen.update(["one"], ["two more"])


def test_another_width_begins_anew_where_the_region_began() -> None:
    seen = Seen()
    seen.update(["stays"], ["a" * 15, "b"])
    seen.console.width = 10
    seen.screen.resize(ROWS, 10)
    seen.screen.reset()  # as a terminal shows it that wraps anew
    seen.stream.feed("stays\r\n" + "a" * 10 + "\r\n" + "a" * 5 + "\r\nb")
    seen.update([], ["a" * 9, "a" * 6, "b"])
    assert [line.rstrip() for line in seen.screen.display] == ["stays", "a" * 9, "a" * 6, "b", "", ""]

"""Lines at the bottom of a terminal that change, below others that stay.

Only what differs is written again, and nothing is erased before: that is why it does not flicker.
"""

from collections.abc import Sequence
from itertools import takewhile

from rich.cells import cell_len
from rich.console import Console
from rich.segment import Segment, Segments

from tpictl.view.markdown import ScreenLine

_TO_END_OF_LINE = "\x1b[K"
_TO_END_OF_SCREEN = "\x1b[J"


class LiveRegion:
    def __init__(self, console: Console) -> None:
        """The cursor is at the beginning of a line."""
        self._console = console
        self._shown: list[str] = []  # the cursor is in the last of them
        self._widths: list[int] = []  # in columns
        self._columns = console.width

    def update(self, staying: Sequence[ScreenLine], changing: Sequence[ScreenLine]) -> None:
        """Put `staying` where the region was, for good, and the region below. Of a region that is higher than the
        screen the end is shown."""
        changing = changing[-max(self._console.height - 1, 1) :]
        lines = [*staying, *changing]
        texts = self._as_written(lines)
        written = self._paint(texts)
        self._shown = texts[len(staying) :]
        self._widths = [sum(cell_len(segment.text) for segment in line) for line in changing]
        if staying and not self._shown:
            written += "\r\n"
        if written:
            self._console.file.write(written)
            self._console.file.flush()

    def _paint(self, texts: list[str]) -> str:
        """What turns the region into `texts`; the cursor ends in the last of them."""
        before, same = self._shown, 0
        if self._columns != self._console.width:
            above, self._columns = self._rows_above(), self._console.width
            before = []
            written = "\r" + (f"\x1b[{above}A" if above else "") + _TO_END_OF_SCREEN
        else:
            same = _n_same(before, texts)
            if same == len(before) == len(texts):
                return ""
            written = _up(len(before) - 1 - same) if same < len(before) else "\r\n" if before else ""
        changed = [f"\r{text}{_TO_END_OF_LINE}" for text in texts[same:]]
        written += "\r\n".join(changed)
        if not changed and same < len(before):  # the rest goes; the cursor is at the first line of it
            written += f"\r{_TO_END_OF_SCREEN}" + ("\x1b[1A" if same else "")
        elif len(texts) < len(before):
            written += _TO_END_OF_SCREEN
        return written

    def _rows_above(self) -> int:
        """The cursor's distance from the region's top, now that the terminal has another width: most wrap anew."""
        columns = max(self._console.width, 1)
        rows = sum(max(-(-width // columns), 1) for width in self._widths)
        return max(rows - 1, 0)

    def _as_written(self, lines: Sequence[ScreenLine]) -> list[str]:
        segments = [segment for line in lines for segment in (*line, Segment.line())]
        with self._console.capture() as capture:
            self._console.print(Segments(segments), end="")
        return capture.get().split("\n")[:-1]


def _n_same(before: list[str], after: list[str]) -> int:
    """How many lines at the beginning are the same."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))


def _up(lines: int) -> str:
    return f"\x1b[{lines}A" if lines > 0 else ""

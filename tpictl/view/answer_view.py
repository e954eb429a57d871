"""An answer on a terminal, while it comes: markdown, what is done now, and what happens to devices meanwhile."""

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Protocol, Self

from rich.console import Console
from rich.text import Text

from tpictl.printable import printable_text
from tpictl.view.live_region import LiveRegion
from tpictl.view.markdown import ScreenLine, finished_blocks, markdown_lines
from tpictl.view.quantities import format_rate
from tpictl.view.terminal import can_be_repainted, unseen_keys

_PAINT_EVERY_S: Final = 1 / 15
_PAUSE_A_PAINT: Final = 20  # times what painting took: the cores that paint compute, too
_CLOCK_EVERY_S: Final = 1.0  # how long it waits, in whole seconds
_WAITS_LONG_S: Final = 2.0


class AnswerView(Protocol):
    """Use as `with … as view`, around one answer."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def write(self, text: str) -> None:
        """More of the answer."""

    def tell(self, doing: str) -> None:
        """What is done now, until more text comes."""

    def note(self, text: str) -> None:
        """What has happened: it stays."""


def answer_view(console: Console, notes: Console) -> AnswerView:
    """For the terminal of `console`; elsewhere the text as it is, and notes on `notes`."""
    return MarkdownView(console) if can_be_repainted(console) else PlainView(notes)


class PlainView:
    """The text as it is: for files, and for terminals that only go forward."""

    def __init__(self, notes: Console) -> None:
        self._notes = notes
        self._at_line_start = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_line()

    def write(self, text: str) -> None:
        if shown := printable_text(text):
            sys.stdout.write(shown)
            sys.stdout.flush()
            self._at_line_start = shown.endswith("\n")

    def tell(self, doing: str) -> None:
        pass

    def note(self, text: str) -> None:
        self._end_line()
        self._notes.print(Text(text, style="dim"), soft_wrap=True)

    def _end_line(self) -> None:
        if not self._at_line_start:
            self.write("\n")


class MarkdownView:
    """A thread of its own paints, no oftener than eyes want it; whoever writes never waits for the terminal."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._region = LiveRegion(console)
        self._lock = threading.Lock()
        self._text = ""  # what may still change
        self._doing = ""
        self._since_s = clock()
        self._began_s: float | None = None  # when the first text came
        self._n_pieces = 0
        self._notes: list[str] = []
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._painter = threading.Thread(target=self._keep_painted, name="painter", daemon=True)
        self._keys = unseen_keys()

    def __enter__(self) -> Self:
        self._keys.__enter__()
        self._painter.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._wake.set()
        try:
            self._painter.join()
            self.paint(at_end=True)
        finally:
            self._keys.__exit__(None, None, None)

    def write(self, text: str) -> None:
        with self._lock:
            if self._began_s is None:
                self._began_s = self._clock()
                text = text.lstrip("\n")
            self._text += text
            self._n_pieces += 1
            self._doing, self._since_s = "", self._clock()
        self._wake.set()

    def tell(self, doing: str) -> None:
        with self._lock:
            self._doing = doing
        self._wake.set()

    def note(self, text: str) -> None:
        with self._lock:
            self._notes.append(text)
        self._wake.set()

    def paint(self, *, at_end: bool = False) -> None:
        width = max(self._console.width - 1, 1)  # a full line is a case that terminals treat each in their way
        with self._lock:
            blocks, self._text = ([self._text], "") if at_end else finished_blocks(self._text)
            rest, doing, notes = self._text, "" if at_end else self._now(), [*self._notes]
            if blocks or not rest:
                self._notes.clear()
        staying: list[ScreenLine] = []
        for block in blocks:
            lines = markdown_lines(self._console, block, width)
            staying += [*lines, []] if lines and not at_end else lines
        told = self._dim(notes, width)
        if blocks or not rest:
            staying, told = [*staying, *told, *([[]] if told and not at_end else [])], []
        changing = [*markdown_lines(self._console, rest, width), *told, *self._dim([doing] if doing else [], width)]
        self._region.update(staying, changing)

    def _keep_painted(self) -> None:
        while not self._stopped.is_set():
            self._wake.clear()
            began_s = self._clock()
            self.paint()
            self._stopped.wait(max(_PAINT_EVERY_S, _PAUSE_A_PAINT * (self._clock() - began_s)))
            self._wake.wait(_CLOCK_EVERY_S)

    def _now(self) -> str:
        """What is done now and for how long, or how fast text comes."""
        now_s = self._clock()
        if self._doing:
            waited_s = now_s - self._since_s
            return f"{self._doing} · {waited_s:.0f} s" if waited_s >= _WAITS_LONG_S else self._doing
        if self._began_s is None or self._n_pieces < 2 or now_s <= self._began_s:
            return ""
        return format_rate((self._n_pieces - 1) / (now_s - self._began_s))

    def _dim(self, texts: list[str], width: int) -> list[ScreenLine]:
        options = self._console.options.update(width=width)
        return [
            line
            for text in texts
            for line in self._console.render_lines(Text(printable_text(text), style="dim"), options, pad=False)
        ]

"""`tpictl status --watch` on a terminal: a picture that is kept up to date, and keys."""

import os
import re
import select
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from tpictl.client.answers import Status
from tpictl.client.calls import get_status, remove_device
from tpictl.client.connection import Client
from tpictl.commands.watch_keys import Quit, Remove, WatchKeys
from tpictl.printable import printable_line
from tpictl.view.terminal import unseen_keys
from tpictl.view.watch_rows import Row, rows_of
from tpictl.view.watch_screen import WatchState, bottom_line, trouble_line, watch_screen
from tpid.errors import TpidError

REFRESH_S: Final = 1.0
_STALE_S: Final = 2.5  # two looks that brought nothing
_OTHER_KEYS: Final = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|O?.)?", re.DOTALL)  # arrows and the like
_KEPT_RATES: Final = 120
_RATE_OVER_S: Final = 3.0  # a token a second comes out as that, and not as 0 and 2 by turns


@dataclass(frozen=True, slots=True)
class Seen:
    """The last that the daemon has told, and since when it tells nothing."""

    status: Status | None
    at_s: float  # monotonic
    trouble: str | None
    rates: tuple[float, ...]


class Rates:
    """Tokens a second, out of the number that was written since the daemon began."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, int]] = deque()
        self.values: deque[float] = deque(maxlen=_KEPT_RATES)

    def add(self, time_s: float, written: int) -> None:
        if self._points and (written < self._points[-1][1] or time_s <= self._points[-1][0]):
            self._points.clear()  # the daemon began anew, or its clock was set
        self._points.append((time_s, written))
        while len(self._points) > 2 and time_s - self._points[1][0] >= _RATE_OVER_S:
            self._points.popleft()
        began_s, before = self._points[0]
        if time_s > began_s:
            self.values.append((written - before) / (time_s - began_s))


class Poller:
    """Asks in a thread of its own: a daemon that hangs must not hold up keys and clock."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._rates = Rates()
        self._seen = Seen(None, time.monotonic(), None, ())
        self._now = threading.Event()
        self.readable, self._woken = os.pipe()  # a byte comes where something is new
        threading.Thread(target=self._poll, name="poller", daemon=True).start()

    @property
    def seen(self) -> Seen:
        return self._seen

    def ask_now(self) -> None:
        self._now.set()

    def _poll(self) -> None:
        while True:
            self._now.clear()
            try:
                status = get_status(self._client)
            except TpidError as error:
                seen = self._seen
                self._seen = Seen(seen.status, seen.at_s, printable_line(str(error)), seen.rates)
            else:
                self._rates.add(status.time_s, status.written_tokens)
                self._seen = Seen(status, time.monotonic(), None, tuple(self._rates.values))
            os.write(self._woken, b"\0")
            self._now.wait(REFRESH_S)


class Watch:
    """Keys and picture over what a poller has seen."""

    def __init__(self, client: Client, poller: Poller) -> None:
        self._client = client
        self._poller = poller
        self._keys = WatchKeys()
        self._frozen: Seen | None = None  # while it is paused

    def picture(self, columns: int, lines: int) -> RenderableType:
        seen = self._frozen or self._poller.seen
        state = self._state(seen)
        if seen.status is None:
            return Group(trouble_line(state) if seen.trouble else Text("…"), "", bottom_line(state))
        return watch_screen(seen.status, state, columns, lines)

    def press(self, key: str) -> bool:
        """Whether it goes on."""
        seen = self._frozen or self._poller.seen
        rows: list[Row] = rows_of(seen.status, self._keys.sort) if seen.status is not None else []
        wanted = self._keys.press(key, rows)
        self._frozen = seen if self._keys.paused else None
        if isinstance(wanted, Remove):
            self._remove(wanted.name)
        return not isinstance(wanted, Quit)

    def _remove(self, name: str) -> None:
        try:
            remove_device(self._client, name)
        except TpidError as error:
            self._keys.bottom = printable_line(str(error))
        else:
            self._keys.bottom = f"{name} does not belong to this home any more."
            self._poller.ask_now()

    def _state(self, seen: Seen) -> WatchState:
        age_s = time.monotonic() - seen.at_s
        is_stale = not self._keys.paused and (age_s > _STALE_S or seen.trouble is not None)
        status_s = seen.status.time_s if seen.status is not None else 0.0
        return WatchState(
            clock=time.strftime("%H:%M:%S"),
            now_s=status_s if self._keys.paused else status_s + age_s,
            stale_s=max(age_s, 1.0) if is_stale else 0.0,
            trouble=seen.trouble,
            rates=seen.rates,
            sort=self._keys.sort,
            paused=self._keys.paused,
            numbers=self._keys.numbers,
            bottom=self._keys.bottom,
        )


def watch_on_screen(client: Client, console: Console) -> None:
    """Until q or Ctrl-C."""
    poller = Poller(client)
    watch = Watch(client, poller)
    keyboard = sys.stdin.fileno() if sys.stdin.isatty() else None
    with unseen_keys(), Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            live.update(watch.picture(console.width, console.height), refresh=True)
            sources = [poller.readable] + ([keyboard] if keyboard is not None else [])
            ready, _, _ = select.select(sources, [], [], REFRESH_S - time.time() % REFRESH_S)
            if poller.readable in ready:
                os.read(poller.readable, 1 << 10)
            if keyboard in ready and not _typed(watch, keyboard):
                return


def _typed(watch: Watch, keyboard: int | None) -> bool:
    """Whether it goes on."""
    typed = os.read(keyboard, 1 << 10).decode(errors="ignore") if keyboard is not None else ""
    if not typed:
        return False  # the terminal is gone
    return all(watch.press(key) for key in _OTHER_KEYS.sub("", typed))

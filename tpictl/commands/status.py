"""`tpictl status`: once, or again each second."""

import time
from collections.abc import Callable

from rich.console import Group, RenderableType
from rich.text import Text

from tpictl.client.answers import Status
from tpictl.client.calls import STATUS
from tpictl.client.connection import Client
from tpictl.client.decode import decode
from tpictl.errors import describe
from tpictl.outcome import print_json
from tpictl.printable import printable_line
from tpictl.view.dashboard import dashboard
from tpictl.view.terminal import can_be_repainted, stdout_console
from tpid.errors import TpidError

REFRESH_S = 1.0


def run_status(client: Client, *, watch: bool, as_json: bool) -> None:
    """Raises TpidError; with `watch` nothing but Ctrl-C, or q, ends it, which is no error."""
    console = stdout_console()
    if not watch:
        answer = client.get(STATUS)
        if as_json:
            print_json(answer)
        else:
            console.print(dashboard(decode(Status, answer)))
        return
    try:
        if as_json:
            _repeat(lambda: print_json(_json_now(client)))
        elif can_be_repainted(console):
            from tpictl.commands.watching import watch_on_screen  # noqa: PLC0415 (only a watch needs it)

            watch_on_screen(client, console)
        else:
            screen = Screen(client)
            _repeat(lambda: console.print(screen.now()))
    except KeyboardInterrupt:
        return


class Screen:
    """What is shown: the state now, or while the daemon is away the last one that was known."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._last: Status | None = None

    def now(self) -> RenderableType:
        try:
            self._last = decode(Status, self._client.get(STATUS))
        except TpidError as error:
            trouble = Text(printable_line(str(error)), style="bold red")
            if self._last is None:
                return trouble
            return Group(trouble, Text("The last that was known:", style="dim"), dashboard(self._last))
        return dashboard(self._last)


def _json_now(client: Client) -> object:
    try:
        return client.get(STATUS)
    except TpidError as error:
        return {"error": describe(error)}


def _repeat(show: Callable[[], None]) -> None:
    while True:
        show()
        time.sleep(REFRESH_S)

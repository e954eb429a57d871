"""The chat on a terminal: a line editor, answers as they come, and commands that begin with a slash."""

import os
import sys
from collections.abc import Callable

from rich.console import Console
from rich.text import Text

from tpictl.client.answering import Answer, stream_what_comes
from tpictl.client.answers import Plan
from tpictl.client.calls import plan_of
from tpictl.client.connection import Client
from tpictl.commands.chat import current_plan, print_stats
from tpictl.commands.conversation import Conversation
from tpictl.commands.line_editor import LineEditor
from tpictl.commands.sampling import Sampling, change
from tpictl.commands.slash import (
    HELP,
    Action,
    Exit,
    Help,
    Misunderstood,
    New,
    Nothing,
    Say,
    Set,
    ShowSettings,
    ShowStats,
    System,
    understand,
)
from tpictl.paths import history_path
from tpictl.printable import printable_text
from tpictl.view.plan_table import answer_line, plan_title
from tpid.errors import TpidError


class ChatLoop:
    def __init__(
        self, client: Client, conversation: Conversation, plan: Plan, console: Console, *, show_stats: bool
    ) -> None:
        self._client = client
        self._conversation = conversation
        self._plan = plan
        self._console = console
        self._show_stats = show_stats
        self._last: Answer | None = None

    def run(self) -> None:
        """Until Ctrl-D, /exit, or Ctrl-C at an empty prompt."""
        editor = LineEditor(history_path(os.environ))
        if self._show_stats:
            print_stats(self._console, self._plan, None)
        self._note("/help tells what can be typed.")
        while (line := editor.read()) is not None:
            action = understand(line)
            if isinstance(action, Exit):
                return
            try:
                self._do(action)
            except TpidError as error:
                self._fault(error)
            except KeyboardInterrupt:  # meant for an answer that had just ended
                self._note("Stopped.")

    def _do(self, action: Action) -> None:
        match action:
            case Say(prompt):
                self._answer(prompt)
            case Help():
                self._console.print(HELP, markup=False)
            case New():
                self._conversation.forget()
                self._note("Forgotten.")
            case System(text):
                self._conversation.system = text
                self._note("The system message is set." if text else "There is no system message.")
            case Set(name, value):
                self._conversation.sampling = change(self._conversation.sampling, name, value)
                self._note(f"{name} is {value}.")
            case ShowSettings():
                self._console.print(settings_text(self._conversation.sampling), markup=False)
            case ShowStats():
                print_stats(self._console, self._refreshed_plan(), self._last)
            case Misunderstood(reason):
                self._note(reason)
            case Nothing() | Exit():
                pass

    def _answer(self, prompt: str) -> None:
        waiting = self._console.status(Text("reading the prompt", style="dim"), spinner="dots")
        screen = _Screen(waiting.stop)
        with waiting:
            answer = stream_what_comes(self._client, self._conversation.request(prompt), screen.write)
        screen.end_line()
        self._conversation.add(prompt, answer.text)
        if answer.interrupted:
            self._note("Stopped." if answer.text else "Stopped before the answer began; the prompt is forgotten.")
        elif answer.error is not None:
            self._fault(answer.error)
        else:
            self._last = answer
            self._numbers(answer)

    def _numbers(self, answer: Answer) -> None:
        if answer.finish_reason == "length":
            self._note("The answer was cut: max_tokens is reached, or the context is full.")
        if not self._show_stats or answer.usage is None or answer.timings is None:
            return
        before = self._plan
        if self._refreshed_plan() != before:
            self._note(f"New plan: {plan_title(self._plan)}. /stats shows it.")
        self._note(answer_line(answer.usage, answer.timings))

    def _refreshed_plan(self) -> Plan:
        plan = current_plan(self._client, None)
        if plan is not None:
            self._plan = plan_of(plan)
        return self._plan

    def _note(self, text: str) -> None:
        self._console.print(Text(text, style="dim"), soft_wrap=True)

    def _fault(self, error: TpidError) -> None:
        self._console.print(Text(printable_text(str(error)), style="red"), soft_wrap=True)


def settings_text(sampling: Sampling) -> str:
    lines = []
    for name, value in sampling.chosen().items():
        shown = "default" if value in (None, ()) else " ".join(map(repr, value)) if isinstance(value, tuple) else value
        lines.append(f"{name:<20} {shown}")
    return "\n".join(lines)


class _Screen:
    """Writes an answer as it comes."""

    def __init__(self, before_first: Callable[[], None]) -> None:
        """`before_first` is called before the first piece is written."""
        self._before_first = before_first
        self._begun = False
        self._at_line_start = True

    def write(self, text: str) -> None:
        shown = printable_text(text)
        if not shown:
            return
        if not self._begun:
            self._before_first()
            self._begun = True
        sys.stdout.write(shown)
        sys.stdout.flush()
        self._at_line_start = shown.endswith("\n")

    def end_line(self) -> None:
        if not self._at_line_start:
            sys.stdout.write("\n")
            sys.stdout.flush()

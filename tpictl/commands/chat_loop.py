"""The chat on a terminal: a line editor, answers as they come, and commands that begin with a slash."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tpictl.client.answering import Answer, stream_what_comes
from tpictl.client.answers import DeviceEvent, Plan, Stage
from tpictl.client.calls import get_models, load_model, plan_of
from tpictl.client.connection import Client
from tpictl.commands.attachments import with_files
from tpictl.commands.chat import current_plan, print_stats
from tpictl.commands.conversation import Conversation, Prompt, Turn
from tpictl.commands.kept_chats import KeptChats
from tpictl.commands.line_editor import Reader
from tpictl.commands.sampling import Sampling, change
from tpictl.commands.slash import (
    COMMANDS,
    HINTS,
    Action,
    Edit,
    Exit,
    Help,
    Load,
    Misunderstood,
    Model,
    New,
    Retry,
    Save,
    Say,
    Set,
    ShowSettings,
    ShowStats,
    System,
    understand,
)
from tpictl.printable import printable_text
from tpictl.view.answer_view import answer_view
from tpictl.view.plan_table import answer_line, plan_title
from tpictl.view.progress_bars import StageBars
from tpictl.view.progress_lines import event_line, stage_line
from tpictl.view.terminal import stdout_console
from tpid.errors import RequestError, TpidError

_LISTED_CHATS = 10


class ChatLoop:
    def __init__(
        self,
        client: Client,
        conversation: Conversation,
        plan: Plan,
        console: Console,
        *,
        kept: KeptChats | None,
        name: str | None,
        show_stats: bool,
    ) -> None:
        """`kept`: where chats are kept, None for nowhere; `name`: of the chat that goes on, None for a new one."""
        self._client = client
        self._conversation = conversation
        self._plan = plan
        self._console = console
        self._kept = kept
        self._name = name
        self._show_stats = show_stats
        self._last: Answer | None = None

    def run(self, editor: Reader) -> None:
        """Until Ctrl-D, /bye, or Ctrl-C twice at an empty prompt."""
        if self._show_stats:
            print_stats(self._console, self._plan, None)
        self._note("/? tells what can be typed.")
        self._tell_where_it_was()
        while (line := editor.read()) is not None:
            action = understand(line)
            if isinstance(action, Exit):
                return
            try:
                if isinstance(action, Edit):
                    self._edit(editor)
                else:
                    self._do(action)
            except TpidError as error:
                self._fault(error)
            except KeyboardInterrupt:
                self._note("Stopped.")

    def _do(self, action: Action) -> None:
        match action:
            case Say(prompt):
                self._answer(with_files(prompt))
            case Retry():
                self._answer_instead(self._last_turn().prompt)
            case New():
                self._begin_anew()
            case Model(name):
                self._change_model(name)
            case Save(name):
                self._save_as(name)
            case Load(name):
                self._load(name)
            case System(text):
                self._conversation.system = text
                self._note("The system message is set." if text else "There is no system message.")
            case Set(name, value):
                self._conversation.sampling = change(self._conversation.sampling, name, value)
                self._note(f"{name} is {value}.")
            case _:
                self._show(action)

    def _show(self, action: Action) -> None:
        match action:
            case Help():
                self._console.print(help_table())
                for hint in HINTS:
                    self._note(hint)
            case ShowSettings():
                self._console.print(settings_text(self._conversation.sampling), markup=False)
            case ShowStats():
                print_stats(self._console, self._refreshed_plan(), self._last)
            case Misunderstood(reason):
                self._note(reason)
            case _:
                pass

    # --- answers

    def _answer(self, prompt: Prompt) -> None:
        with answer_view(stdout_console(), self._console) as view:

            def show(told: Stage | DeviceEvent) -> None:
                if isinstance(told, Stage):
                    view.tell(stage_line(told))
                else:
                    view.note(event_line(told))

            view.tell("waiting")
            answer = stream_what_comes(self._client, self._conversation.request(prompt.sent), view.write, show)
        self._conversation.add(prompt, answer.text)
        if answer.text:
            self._keep()
        if answer.interrupted:
            self._note("Stopped." if answer.text else "Stopped before the answer began; the prompt is forgotten.")
        elif answer.error is not None:
            self._fault(answer.error)
        else:
            self._last = answer
            self._numbers(answer)

    def _edit(self, editor: Reader) -> None:
        typed = editor.edit(self._last_turn().prompt.typed)
        if typed is None or not typed.strip():
            self._note("It stays as it was.")
        else:
            self._answer_instead(with_files(typed))

    def _answer_instead(self, prompt: Prompt) -> None:
        """The last turn is gone once there is another."""
        last = self._last_turn()
        before = self._conversation.turns[:-1]
        self._conversation.turns[:] = before
        try:
            self._answer(prompt)
        finally:
            if self._conversation.turns == before:
                self._conversation.turns.append(last)

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

    # --- models and chats

    def _change_model(self, name: str | None) -> None:
        """The chat goes on with it."""
        if name is None:
            for model in get_models(self._client).models:
                mine = " (this chat's)" if model.name == self._conversation.model else ""
                self._note(f"{model.name}{mine}" if model.damaged is None else f"{model.name} is damaged")
            return
        with StageBars(self._console, keep=False) as bars:
            plan = load_model(self._client, name, bars.show)
        self._plan, self._conversation.model = plan_of(plan), name
        self._note(f"The chat goes on with {plan_title(self._plan)}.")

    def _begin_anew(self) -> None:
        kept = f" The last one is kept: /load {self._name}" if self._kept and self._name else ""
        self._conversation.forget()
        self._name = None
        self._note(f"A new chat.{kept}")

    def _save_as(self, name: str) -> None:
        kept = self._where_kept()
        if not self._conversation.turns:
            raise RequestError("Nothing has been said yet.", hint="Save the chat once it has an answer.")
        if self._name != name:
            kept.rename(self._name or kept.new_name(), name)
            self._name = name
        kept.save(name, self._conversation)
        self._note(f"The chat is kept as {name}.")

    def _load(self, name: str | None) -> None:
        kept = self._where_kept()
        if name is None:
            names = kept.names()
            if not names:
                self._note("No chat is kept yet.")
            for listed in names[:_LISTED_CHATS]:
                try:
                    self._note(f"{listed}  {kept.load(listed).title}")
                except RequestError as error:
                    self._note(error.message)
            return
        conversation = kept.load(name).conversation()
        if conversation.model != self._conversation.model:
            self._change_model(conversation.model)
        self._conversation, self._name = conversation, name
        self._tell_where_it_was()

    def _where_kept(self) -> KeptChats:
        if self._kept is None:
            raise RequestError("This chat is private: none is kept.", hint="Leave out --private.")
        return self._kept

    def _keep(self) -> None:
        if self._kept is not None:
            self._name = self._name or self._kept.new_name()
            try:
                self._kept.save(self._name, self._conversation)
            except RequestError as error:  # the answer is there, and the chat goes on
                self._fault(error)

    def _tell_where_it_was(self) -> None:
        turns = self._conversation.turns
        if turns:
            number = "1 answer" if len(turns) == 1 else f"{len(turns)} answers"
            self._note(f"The chat goes on after {number}. The last was about:")
            self._note(" ".join(printable_text(turns[-1].prompt.typed).split())[:200])

    def _last_turn(self) -> Turn:
        """Raises RequestError."""
        if not self._conversation.turns:
            raise RequestError("Nothing has been said yet.")
        return self._conversation.turns[-1]

    # --- what is said beside

    def _note(self, text: str) -> None:
        self._say(Text(text, style="dim"))

    def _fault(self, error: TpidError) -> None:
        self._say(Text(printable_text(str(error)), style="red"))

    def _say(self, text: Text) -> None:
        self._console.print(text, soft_wrap=not self._console.is_terminal)


def help_table() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for usage, meaning in COMMANDS.items():
        table.add_row(Text(usage), Text(meaning))
    return table


def settings_text(sampling: Sampling) -> str:
    lines = []
    for name, value in sampling.chosen().items():
        shown = "default" if value in (None, ()) else " ".join(map(repr, value)) if isinstance(value, tuple) else value
        lines.append(f"{name:<20} {shown}")
    return "\n".join(lines)

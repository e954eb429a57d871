"""`tpictl chat`: which model, loading it, and then a loop on a terminal or one answer in a pipe."""

import os
import sys
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from tpictl.client.answering import Answer, stream_answer
from tpictl.client.answers import Plan
from tpictl.client.calls import STATUS, get_models, load_model, plan_of
from tpictl.client.connection import Client
from tpictl.commands.conversation import Conversation
from tpictl.commands.kept_chats import KeptChats
from tpictl.commands.sampling import Sampling, check_finite
from tpictl.outcome import print_json
from tpictl.paths import chats_path, history_path
from tpictl.printable import printable_text
from tpictl.view.plan_table import answer_line, left_out_lines, plan_lines, plan_table, plan_title
from tpictl.view.progress_bars import StageBars
from tpictl.view.terminal import stderr_console
from tpid.errors import ModelNotFoundError, RequestError, TpidError

NARROW_COLUMNS = 60  # a table of the plan would be all folds
MAX_PROMPT_BYTES = 4 << 20  # about a million tokens; the daemon takes eight times that, in JSON


@dataclass(frozen=True, slots=True)
class ChatOptions:
    model: str | None
    system: str | None
    sampling: Sampling
    stats: bool | None  # None: on a terminal, not in a pipe
    as_json: bool
    goes_on: bool = False  # with the chat that was kept last
    private: bool = False  # nothing is kept


def run_chat(client: Client, options: ChatOptions) -> None:
    """Raises TpidError."""
    check_finite(options.sampling)
    console = stderr_console()
    if sys.stdin.isatty():
        if options.as_json:
            raise RequestError(
                "With --json the prompt comes on standard input.", hint="For example: echo Hello | tpictl chat --json"
            )
        _chat_on_a_terminal(client, options, console)
        return
    if options.goes_on:
        raise RequestError("--continue is for a chat on a terminal.", hint="Leave it out, or type the prompt.")
    prompt = read_prompt(sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1))
    conversation, plan = _begin(client, options, console)
    if options.as_json:
        answer = stream_answer(client, conversation.request(prompt), lambda text: None)
        print_json(_as_json(conversation.model, answer, current_plan(client, plan)))
        return
    answer = stream_answer(client, conversation.request(prompt), _write)
    if sys.stdout.isatty() and not answer.text.endswith("\n"):
        _write("\n")
    if options.stats:
        print_stats(console, plan_of(current_plan(client, plan)), answer)


def _chat_on_a_terminal(client: Client, options: ChatOptions, console: Console) -> None:
    # Imported here: the line editor costs a fifth of a second, which a pipe need not wait for.
    from tpictl.commands.chat_loop import ChatLoop  # noqa: PLC0415
    from tpictl.commands.line_editor import LineEditor, PlainReader  # noqa: PLC0415

    kept = KeptChats(chats_path(os.environ))
    name = _newest(kept) if options.goes_on else None
    before = kept.load(name).conversation() if name is not None else None
    conversation, plan = _begin(client, options, console, before)
    loop = ChatLoop(
        client,
        conversation,
        plan_of(plan),
        console,
        kept=None if options.private else kept,
        name=name,
        show_stats=options.stats is not False,
    )
    history = None if options.private else history_path(os.environ)

    def ask() -> None:
        console.print("Ctrl-C once more leaves.", style="dim")

    loop.run(PlainReader(ask) if console.is_dumb_terminal else LineEditor(history, ask))


def _newest(kept: KeptChats) -> str:
    """Raises RequestError."""
    names = kept.names()
    if not names:
        raise RequestError("No chat is kept yet.", hint="Begin one: tpictl chat")
    return names[0]


def read_prompt(data: bytes) -> str:
    """What came on standard input. Raises RequestError."""
    if len(data) > MAX_PROMPT_BYTES:
        raise RequestError(
            f"The prompt on standard input has more than {MAX_PROMPT_BYTES} bytes.", hint="Send less text."
        )
    try:
        prompt = data.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"The prompt on standard input is not UTF-8 at byte {error.start}.",
            hint="Convert it first, as iconv does; only text can be a prompt.",
        ) from None
    if not prompt.strip():
        raise RequestError("Standard input holds no prompt.", hint="For example: echo Hello | tpictl chat")
    return prompt


def only_model(client: Client, command: str) -> str:
    """The model where there is no choice; `command` is for the hint. Raises ModelNotFoundError."""
    answer = get_models(client)
    sound = [model.name for model in answer.models if model.damaged is None]
    if not sound:
        raise ModelNotFoundError("This device has no model yet.", hint=f"Fetch one: tpictl pull {answer.default}")
    if len(sound) > 1:
        raise ModelNotFoundError(
            f"This device has {len(sound)} models: {', '.join(sound)}.", hint=f"Say which: tpictl {command} {sound[0]}"
        )
    return sound[0]


def print_stats(console: Console, plan: Plan, answer: Answer | None) -> None:
    """Who computed what, and how fast."""
    console.print()
    console.print(plan_title(plan))
    if console.width < NARROW_COLUMNS:
        console.print(*plan_lines(plan), sep="\n")
    else:
        console.print(plan_table(plan))
    for line in left_out_lines(plan):
        console.print(line)
    if answer is not None and answer.usage is not None and answer.timings is not None:
        console.print(answer_line(answer.usage, answer.timings), soft_wrap=not console.is_terminal)


def current_plan(client: Client, loaded: object) -> object:
    """The plan that the last answer ended with, as JSON: it may have been made anew since it was loaded."""
    try:
        status = client.get(STATUS)
    except TpidError:  # the answer is there; what is said about it is not worth an error
        return loaded
    plan = status.get("plan") if isinstance(status, dict) else None
    return plan if plan is not None else loaded


def _begin(
    client: Client, options: ChatOptions, console: Console, before: Conversation | None = None
) -> tuple[Conversation, object]:
    """A conversation with a model that is loaded, and its plan. What the options say goes `before`."""
    conversation = before or Conversation("", options.sampling)
    conversation.model = options.model or conversation.model or only_model(client, "chat")
    conversation.system = options.system if options.system is not None else conversation.system
    conversation.sampling = conversation.sampling.with_chosen(options.sampling)
    with StageBars(console, keep=False) as bars:
        plan = load_model(client, conversation.model, bars.show)
    return conversation, plan


def _write(text: str) -> None:
    sys.stdout.write(printable_text(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def _as_json(model: str, answer: Answer, plan: object) -> dict[str, Any]:
    return {
        "model": model,
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
        "usage": asdict(answer.usage) if answer.usage else None,
        "timings": asdict(answer.timings) if answer.timings else None,
        "plan": plan,
    }

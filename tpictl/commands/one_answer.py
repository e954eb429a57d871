"""`tpictl run`: one prompt, one answer on standard output."""

import sys
from dataclasses import asdict

from tpictl.client.answering import Answer, stream_answer
from tpictl.client.calls import load_model
from tpictl.client.connection import Client
from tpictl.commands.chat import MAX_PROMPT_BYTES, read_prompt
from tpictl.commands.conversation import Conversation
from tpictl.commands.sampling import Sampling, check_finite
from tpictl.outcome import print_json
from tpictl.printable import printable_text
from tpictl.view.progress_bars import StageBars
from tpictl.view.terminal import stderr_console
from tpid.errors import RequestError


def run_once(client: Client, model: str, prompt: str, *, system: str | None, sampling: Sampling, as_json: bool) -> None:
    """Raises TpidError."""
    check_finite(sampling)
    text = prompt or _standard_input(model)
    with StageBars(stderr_console(), keep=False) as bars:
        load_model(client, model, bars.show)
    request = Conversation(model, sampling, system).request(text)
    if as_json:
        print_json(_as_json(model, stream_answer(client, request, lambda piece: None)))
        return
    answer = stream_answer(client, request, _write)
    if sys.stdout.isatty() and not answer.text.endswith("\n"):
        _write("\n")


def _standard_input(model: str) -> str:
    if sys.stdin.isatty():
        raise RequestError("There is no prompt.", hint=f'Give one: tpictl run {model} "Why is the sky blue?"')
    return read_prompt(sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1))


def _write(text: str) -> None:
    sys.stdout.write(printable_text(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def _as_json(model: str, answer: Answer) -> dict[str, object]:
    return {
        "model": model,
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
        "usage": asdict(answer.usage) if answer.usage else None,
        "timings": asdict(answer.timings) if answer.timings else None,
    }

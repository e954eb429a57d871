"""One answer, from request to last word."""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass

from tpictl.client.answers import DeviceEvent, Stage, Timings, Usage
from tpictl.client.calls import chat
from tpictl.client.connection import Client
from tpid.errors import TpidError


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    finish_reason: str | None = None  # None where it was cut short
    usage: Usage | None = None
    timings: Timings | None = None
    interrupted: bool = False  # by Ctrl-C
    error: TpidError | None = None


def stream_answer(client: Client, body: Mapping[str, object], on_text: Callable[[str], None]) -> Answer:
    """The whole answer, after `on_text` had each piece. Raises TpidError."""
    answer = stream_what_comes(client, body, on_text)
    if answer.error is not None:
        raise answer.error
    if answer.interrupted:
        raise KeyboardInterrupt
    return answer


def stream_what_comes(
    client: Client,
    body: Mapping[str, object],
    on_text: Callable[[str], None],
    on_progress: Callable[[Stage | DeviceEvent], None] | None = None,
) -> Answer:
    """The answer as far as it came: Ctrl-C ends it at once, here and in the daemon, and so does an error."""
    pieces: list[str] = []
    finish_reason: str | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    try:
        with closing(chat(client, body, with_progress=on_progress is not None)) as chunks:
            for chunk in chunks:
                for told in (chunk.progress, chunk.event):
                    if told is not None and on_progress is not None:
                        on_progress(told)
                for choice in chunk.choices:
                    finish_reason = choice.finish_reason or finish_reason
                    if choice.delta.content:
                        pieces.append(choice.delta.content)
                        on_text(choice.delta.content)
                usage, timings = chunk.usage or usage, chunk.timings or timings
    except KeyboardInterrupt:
        return Answer("".join(pieces), interrupted=True)
    except TpidError as error:
        return Answer("".join(pieces), error=error)
    return Answer("".join(pieces), finish_reason, usage, timings)

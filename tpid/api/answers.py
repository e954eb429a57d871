"""From the events of the engine to whole answers: one for each choice."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from tpid.engine.generation import Event, Finished, FinishReason, GenerationStats, Text, TokenLogprob
from tpid.model.tool_calls import ToolCall


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    reason: FinishReason
    stats: GenerationStats
    logprobs: tuple[TokenLogprob, ...]
    calls: tuple[ToolCall, ...] = ()


async def collect(events: AsyncIterator[Event]) -> list[Answer]:
    """All answers to a request, in their order."""
    answers: list[Answer] = []
    pieces: list[Text | ToolCall] = []
    async for event in events:
        if isinstance(event, Finished):
            answers.append(_answer(pieces, event))
            pieces = []
        else:
            pieces.append(event)
    if pieces or not answers:
        raise RuntimeError("the engine ended without an end")
    return answers


def _answer(pieces: Sequence[Text | ToolCall], end: Finished) -> Answer:
    texts = [piece for piece in pieces if isinstance(piece, Text)]
    calls = tuple(piece for piece in pieces if isinstance(piece, ToolCall))
    logprobs = tuple(token for text in texts for token in text.logprobs)
    return Answer("".join(text.text for text in texts), end.reason, end.stats, logprobs, calls)

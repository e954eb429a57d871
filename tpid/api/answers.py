"""From the events of the engine to whole answers: one for each choice."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from tpid.engine.generation import Finished, FinishReason, GenerationStats, Text, TokenLogprob


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    reason: FinishReason
    stats: GenerationStats
    logprobs: tuple[TokenLogprob, ...]


async def collect(events: AsyncIterator[Text | Finished]) -> list[Answer]:
    """All answers to a request, in their order."""
    answers: list[Answer] = []
    texts: list[Text] = []
    async for event in events:
        if isinstance(event, Text):
            texts.append(event)
        else:
            answers.append(_answer(texts, event))
            texts = []
    if texts or not answers:
        raise RuntimeError("the engine ended without an end")
    return answers


def _answer(texts: Sequence[Text], end: Finished) -> Answer:
    logprobs = tuple(token for text in texts for token in text.logprobs)
    return Answer("".join(text.text for text in texts), end.reason, end.stats, logprobs)

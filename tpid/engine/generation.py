"""From a chat to an answer: template, tokens, prefill of what is new, decode until something ends it."""

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias

from tpid.engine.prompt import Prompt
from tpid.engine.sequence import TokenSequence
from tpid.engine.text_owner import ModelText
from tpid.errors import ContextOverflowError, RequestError
from tpid.model.answer_text import AnswerText
from tpid.model.sampling import Sampler, SamplingParams
from tpid.model.weights import F32


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    prompt: Prompt
    sampling: SamplingParams
    max_tokens: int | None = None  # None: until the context is full
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False  # for measurements


@dataclass(frozen=True, slots=True)
class GenerationStats:
    """Times in seconds; TTFT from the start of prefill, TPOT as the mean over the tokens after the first."""

    prompt_tokens: int
    cached_tokens: int  # of the prompt, found in the KV cache
    completion_tokens: int
    ttft_s: float
    decode_s: float
    queue_s: float = 0.0  # what the request waited for its turn

    @property
    def tpot_s(self) -> float | None:
        return self.decode_s / (self.completion_tokens - 1) if self.completion_tokens > 1 else None

    @property
    def tokens_s(self) -> float | None:
        return 1 / self.tpot_s if self.tpot_s else None


FinishReason: TypeAlias = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Text:
    """More of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    reason: FinishReason
    stats: GenerationStats


class Computes(Protocol):
    """Who computes: a `tpid.engine.runner.Runner`."""

    async def attach(self, sequence: TokenSequence) -> None: ...

    async def advance(self, sequence: TokenSequence) -> F32: ...


async def generate(
    runner: Computes, text_model: ModelText, request: GenerationRequest, context_tokens: int
) -> AsyncGenerator[Text | Finished, None]:
    """Yields text as it becomes final, and Finished at the end.

    Raises ChatTemplateError, RequestError, ContextOverflowError, and what `Runner.advance` raises.
    """
    prompt = await text_model.encode(request.prompt)
    budget = _token_budget(len(prompt), request.max_tokens, context_tokens)
    sampler = Sampler(request.sampling)
    answer = AnswerText(text_model.tokenizer, request.stop)

    started = time.perf_counter()
    sequence = TokenSequence(prompt)
    await runner.attach(sequence)
    stats = GenerationStats(len(prompt), sequence.n_computed, 0, 0.0, 0.0)
    reason: FinishReason = "length"
    first_at = started
    while True:
        id = sampler.sample(await runner.advance(sequence), sequence.ids)
        now = time.perf_counter()
        if sequence.n_answer == 0:
            first_at = now
        sequence.append(id)
        stats = replace(stats, completion_tokens=sequence.n_answer, ttft_s=first_at - started, decode_s=now - first_at)
        if id in text_model.eos_ids and not request.ignore_eos:
            reason = "stop"
            break
        text, stopped = answer.push(id)
        if text:
            yield Text(text)
        if stopped:
            yield Finished("stop", stats)
            return
        if sequence.n_answer >= budget:
            break

    text, stopped = answer.finish()
    if text:
        yield Text(text)
    yield Finished("stop" if stopped else reason, stats)


def _token_budget(prompt_tokens: int, max_tokens: int | None, context_tokens: int) -> int:
    """How many tokens the answer may have. Raises ContextOverflowError, and RequestError for a prompt of no tokens."""
    if prompt_tokens == 0:
        raise RequestError(
            "The prompt is empty: the model's chat template writes nothing for these messages.",
            hint="Send a user message with text in it.",
        )
    room = context_tokens - prompt_tokens
    if room < 1:
        raise ContextOverflowError(
            f"The prompt has {prompt_tokens} tokens, the context holds {context_tokens}, the answer included.",
            hint="Shorten the prompt, start a new chat, or raise context_tokens in the configuration.",
        )
    return min(max_tokens or room, room)

"""From a chat to an answer: template, tokens, prefill of what is new, decode until something ends it."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from tpid.engine.session import Session
from tpid.engine.text import TextModel
from tpid.errors import ContextOverflowError, RequestError
from tpid.model.detokenizer import StreamDecoder
from tpid.model.sampling import Sampler, SamplingParams
from tpid.model.stop_strings import StopStrings


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    messages: Sequence[Mapping[str, object]]  # role and content
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


async def generate(
    session: Session, text_model: TextModel, request: GenerationRequest
) -> AsyncGenerator[Text | Finished, None]:
    """Yields text as it becomes final, and Finished at the end.

    Raises ChatTemplateError, RequestError, ContextOverflowError, and what `Session.extend` raises.
    """
    prompt = await asyncio.to_thread(text_model.encode_chat, request.messages)  # a hostile template takes seconds
    if not prompt:
        raise RequestError(
            "The model's chat template makes an empty prompt of these messages.", hint="Send a message with some text."
        )
    budget = _token_budget(len(prompt), request.max_tokens, session.plan.context_tokens)
    sampler = Sampler(request.sampling)
    decoder = StreamDecoder(text_model.tokenizer)
    stops = StopStrings(request.stop)

    started = time.perf_counter()
    cached = _reuse(session, prompt)
    logits = await session.extend(prompt[cached:])
    sequence, n_answer = list(prompt), 0
    stats = GenerationStats(len(prompt), cached, 0, 0.0, 0.0)
    reason: FinishReason = "length"
    first_at = started
    while True:
        id = sampler.sample(logits, sequence)
        now = time.perf_counter()
        if n_answer == 0:
            first_at = now
        sequence.append(id)
        n_answer += 1
        stats = replace(stats, completion_tokens=n_answer, ttft_s=first_at - started, decode_s=now - first_at)
        if id in text_model.eos_ids and not request.ignore_eos:
            reason = "stop"
            break
        text, stopped = stops.push(decoder.push(id))
        if text:
            yield Text(text)
        if stopped:
            yield Finished("stop", stats)
            return
        if n_answer >= budget:
            break
        logits = await session.extend([id])

    text, stopped = stops.push(decoder.flush())
    rest = text if stopped else text + stops.flush()
    if rest:
        yield Text(rest)
    yield Finished("stop" if stopped else reason, stats)


def _token_budget(prompt_tokens: int, max_tokens: int | None, context_tokens: int) -> int:
    """How many tokens the answer may have. Raises ContextOverflowError."""
    room = context_tokens - prompt_tokens
    if room < 1:
        raise ContextOverflowError(
            f"The prompt has {prompt_tokens} tokens, the context holds {context_tokens}, the answer included.",
            hint="Shorten the prompt, start a new chat, or raise context_tokens in the configuration.",
        )
    return min(max_tokens or room, room)


def _reuse(session: Session, prompt: Sequence[int]) -> int:
    """How many tokens of the prompt are in the cache already; at least the last is computed, for its logits."""
    common = 0
    for ours, theirs in zip(session.cached_ids, prompt[:-1], strict=False):
        if ours != theirs:
            break
        common += 1
    session.rewind(common)
    return common

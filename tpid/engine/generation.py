"""From a chat to an answer: template, tokens, prefill of what is new, decode until something ends it."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias

from tpid.engine.constraint import Constraint, Grammar
from tpid.engine.prompt import Prompt
from tpid.engine.sequence import TokenSequence
from tpid.engine.text_owner import ModelText
from tpid.errors import ContextOverflowError, RequestError
from tpid.model.answer_text import AnswerText
from tpid.model.logprobs import Likelihood, likelihoods
from tpid.model.sampling import Sampler, SamplingParams
from tpid.model.token_bytes import token_bytes
from tpid.model.weights import F32


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    prompt: Prompt
    sampling: SamplingParams
    max_tokens: int | None = None  # None: until the context is full
    stop: tuple[str, ...] = ()
    n: int = 1  # answers, one after the other; with a seed, each has its own
    top_logprobs: int | None = None  # how many likely tokens to tell beside each; None: nothing of this kind
    grammar: Grammar | None = None  # that the answer obeys
    ignore_eos: bool = False  # for measurements
    size_bytes: int = 0  # of the prompt, as it came

    def choice(self, index: int) -> "GenerationRequest":
        """The request for one of its answers alone."""
        seed = self.sampling.seed
        sampling = self.sampling if seed is None else replace(self.sampling, seed=(seed + index) % (1 << 64))
        return replace(self, n=1, sampling=sampling)


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
class TokenText:
    """A token as it is told to people: a part of a character has no text of its own, but has its bytes."""

    bytes: bytes
    logprob: float

    @property
    def text(self) -> str:
        return self.bytes.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    chosen: TokenText
    top: tuple[TokenText, ...]  # the likeliest first


@dataclass(frozen=True, slots=True)
class Text:
    """More of the answer. Where they are asked for, the tokens since the last one: their text may be held back."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


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
    constraint = None if request.grammar is None else await text_model.constrain(request.grammar)
    try:
        sequence = TokenSequence(prompt)
        events = _decode(runner, text_model, request, sequence=sequence, constraint=constraint, budget=budget)
        async with aclosing(events):
            async for event in events:
                yield event
    finally:
        if constraint is not None:
            await constraint.close()


async def _decode(
    runner: Computes,
    text_model: ModelText,
    request: GenerationRequest,
    *,
    sequence: TokenSequence,
    constraint: Constraint | None,
    budget: int,
) -> AsyncGenerator[Text | Finished, None]:
    """The answer to `sequence`, of `budget` tokens at most."""
    sampler = Sampler(request.sampling, sequence.n_prompt)
    told = Told(text_model, request.top_logprobs)
    answer = AnswerText(text_model.tokenizer, request.stop)
    clock = _Clock(sequence)
    await runner.attach(sequence)
    clock.begin()
    reason: FinishReason = "length"
    while sequence.n_answer < budget:
        logits = await runner.advance(sequence)
        allowed = None if constraint is None else await constraint.allowed(len(logits))
        if allowed is not None and not allowed.any():
            reason = "stop"
            break
        id = sampler.sample(logits, sequence.ids, allowed)
        sequence.append(id)
        clock.tick()
        if id in text_model.eos_ids and not request.ignore_eos:
            reason = "stop"
            break
        if constraint is not None:
            constraint.accept(id)
        told.push(logits, id)
        text, stopped = answer.push(id)
        if text or (stopped and told.pending):
            yield Text(text, told.take())
        if stopped:
            yield Finished("stop", clock.stats())
            return

    text, stopped = answer.finish()
    if text or told.pending:
        yield Text(text, told.take())
    yield Finished("stop" if stopped else reason, clock.stats())


class _Clock:
    """The times of one answer."""

    def __init__(self, sequence: TokenSequence) -> None:
        self._sequence = sequence
        self._cached_tokens = 0
        self._began_s = self._first_s = self._last_s = time.perf_counter()

    def begin(self) -> None:
        """What is computed of the prompt now, was in the KV cache."""
        self._cached_tokens = self._sequence.n_computed

    def tick(self) -> None:
        """After each token."""
        self._last_s = time.perf_counter()
        if self._sequence.n_answer == 1:
            self._first_s = self._last_s

    def stats(self) -> GenerationStats:
        return GenerationStats(
            self._sequence.n_prompt,
            self._cached_tokens,
            self._sequence.n_answer,
            self._first_s - self._began_s,
            self._last_s - self._first_s,
        )


class Told:
    """The logprobs of an answer's tokens, until the text that comes next takes them along."""

    def __init__(self, text_model: ModelText, n_top: int | None) -> None:
        self._tokenizer = text_model.tokenizer
        self._n_top = n_top
        self.pending: list[TokenLogprob] = []

    def push(self, logits: F32, id: int) -> None:
        if self._n_top is None:
            return
        chosen, top = likelihoods(logits, id, self._n_top)
        self.pending.append(TokenLogprob(self._text(chosen), tuple(self._text(other) for other in top)))

    def take(self) -> tuple[TokenLogprob, ...]:
        taken, self.pending = self.pending, []
        return tuple(taken)

    def _text(self, token: Likelihood) -> TokenText:
        return TokenText(token_bytes(self._tokenizer, token.id), token.logprob)


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

"""From a chat to an answer: template, tokens, prefill of what is new, decode until something ends it."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias

from tpid.engine.constraint import Constraint, Grammar
from tpid.engine.prompt import Prompt
from tpid.engine.sequence import TokenSequence
from tpid.engine.text_owner import ModelText
from tpid.engine.tool_use import grammar_with_tools, parser_for_tools, prompt_with_tools, shown_tokens
from tpid.engine.work import Work
from tpid.errors import ContextOverflowError, RequestError
from tpid.model.answer_text import AnswerText
from tpid.model.detokenizer import Tokens
from tpid.model.logprobs import Likelihood, likelihoods
from tpid.model.sampling import Sampler, SamplingParams
from tpid.model.token_bytes import token_bytes
from tpid.model.tool_calls import Piece, ToolCall
from tpid.model.tool_format import ToolUse
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
    tools: ToolUse | None = None
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


FinishReason: TypeAlias = Literal["stop", "length", "tool_calls"]


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


Event: TypeAlias = Text | ToolCall | Finished


class Computes(Protocol):
    """Who computes: a `tpid.engine.runner.Runner`."""

    async def attach(self, sequence: TokenSequence) -> None: ...

    async def advance(self, sequence: TokenSequence) -> F32: ...


async def generate(
    runner: Computes, text_model: ModelText, request: GenerationRequest, context_tokens: int, work: Work | None = None
) -> AsyncGenerator[Event, None]:
    """Yields text as it becomes final, calls of tools, and Finished at the end; `work` is told how far it is.

    Raises ChatTemplateError, RequestError, ContextOverflowError, and what `Runner.advance` raises.
    """
    format = text_model.tool_format
    prompt = await text_model.encode(prompt_with_tools(request.prompt, request.tools, format))
    budget = _token_budget(len(prompt), request.max_tokens, context_tokens)
    grammar = grammar_with_tools(request.grammar, request.tools, format, text_model.tokenizer)
    constraint = None if grammar is None else await text_model.constrain(grammar)
    try:
        sequence = TokenSequence(prompt)
        if work is not None:
            work.answers(sequence)
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
) -> AsyncGenerator[Event, None]:
    """The answer to `sequence`, of `budget` tokens at most."""
    sampler = Sampler(request.sampling, sequence.n_prompt)
    spoken = _Spoken(text_model, request)
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
            await constraint.accept(id)
        for event in spoken.push(logits, id):
            yield event
        if spoken.stopped:
            break
    for event in spoken.finish():
        yield event
    reason = "stop" if spoken.stopped else reason
    yield Finished("tool_calls" if spoken.n_calls and reason == "stop" else reason, clock.stats())


class _Spoken:
    """From the tokens of one answer to what is told of them: texts, calls of tools, logprobs."""

    def __init__(self, text_model: ModelText, request: GenerationRequest) -> None:
        use, format = request.tools, text_model.tool_format
        tokens = shown_tokens(text_model.tokenizer, use, format)
        self._text = AnswerText(tokens, request.stop)
        self._parser = None if use is None else parser_for_tools(use, format)
        self._told = Told(tokens, request.top_logprobs)
        self.stopped = False  # by a stop string
        self.n_calls = 0

    def push(self, logits: F32, id: int) -> list[Event]:
        self._told.push(logits, id)
        text, self.stopped = self._text.push(id)
        return self._events([text] if self._parser is None else self._parser.push(text))

    def finish(self) -> list[Event]:
        """The rest, when no more tokens come."""
        text = ""
        if not self.stopped:
            text, self.stopped = self._text.finish()
        pieces: list[Piece] = [text] if self._parser is None else [*self._parser.push(text), *self._parser.finish()]
        events = self._events(pieces)
        if self._told.pending:
            events.append(Text("", self._told.take()))
        return events

    def _events(self, pieces: Sequence[Piece]) -> list[Event]:
        self.n_calls += sum(isinstance(piece, ToolCall) for piece in pieces)
        return [Text(piece, self._told.take()) if isinstance(piece, str) else piece for piece in pieces if piece]


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

    def __init__(self, tokenizer: Tokens, n_top: int | None) -> None:
        self._tokenizer = tokenizer
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

"""The body of POST /v1/completions: text or tokens to be continued, without a chat template."""

from typing import Annotated, TypeAlias

from pydantic import BeforeValidator, Field

from tpid.api.bodies import PromptBody
from tpid.api.chat_body import MAX_TOP_LOGPROBS, StreamOptions
from tpid.api.fields import MAX_CHOICES, LogitBias, Opaque, StopField, Switch, only, sampling_of
from tpid.engine.prompt import IdsPrompt, TextPrompt
from tpid.model.sampling import MAX_ID, SamplingParams

MAX_PROMPTS = 16
DEFAULT_MAX_TOKENS = 16  # OpenAI's, small as it is

Continued: TypeAlias = TextPrompt | IdsPrompt


def _prompts(value: object) -> object:
    """From one text, one list of ids, or a list of either."""
    many = value if isinstance(value, list) and not _is_ids(value) else [value]
    if not 1 <= len(many) <= MAX_PROMPTS:
        raise ValueError(f"{len(many)} prompts are not 1 to {MAX_PROMPTS}")
    return tuple(_prompt(one) for one in many)


def _prompt(value: object) -> Continued:
    if isinstance(value, str):
        return TextPrompt(value)
    if isinstance(value, list) and _is_ids(value):
        if not all(0 <= id <= MAX_ID for id in value):
            raise ValueError(f"a token's id is from 0 to {MAX_ID}")
        return IdsPrompt(tuple(value))
    raise ValueError("a string or a list of token ids is expected, or several of them")


def _is_ids(value: list[object]) -> bool:
    return bool(value) and all(type(item) is int for item in value)


class CompletionBody(PromptBody):
    """Null is each field's default."""

    prompt: Annotated[tuple[TextPrompt | IdsPrompt, ...], BeforeValidator(_prompts)]

    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: StopField = ()
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: LogitBias | None = None
    stream: Switch = False
    stream_options: StreamOptions | None = None

    # Not OpenAI's.
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    ignore_eos: Switch = False

    user: Opaque = None
    best_of: Annotated[None, only(1, because="ask for n answers and choose")] = None
    echo: Annotated[None, only(False, because="the prompt is at hand where it comes from")] = None
    suffix: Annotated[None, only("", because="models here continue a text, and fill no gap")] = None

    @property
    def usage_is_told(self) -> bool:
        """At the end of a stream."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def sampling(self) -> SamplingParams:
        """Raises RequestError where a value is out of range."""
        return sampling_of(self)

"""What comes in over HTTP, checked. Field names are OpenAI's where OpenAI has the field."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tpid.size_field import Size

MAX_NAME_CHARS = 255  # of a model; longer ones do not exist, but would be told again in an error
MAX_PATH_CHARS = 4096
MAX_TOLD_CHARS = 40  # of a field that a client has made up

ModelName = Annotated[str, Field(max_length=MAX_NAME_CHARS)]


class JsonBody(BaseModel):
    """Of a request. Lists end at their first fault: a million faults would take a gigabyte."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ChatMessage(JsonBody):
    role: Literal["system", "user", "assistant"]
    content: str


class StreamOptions(JsonBody):
    include_usage: bool = False


class ChatBody(JsonBody):
    """POST /v1/chat/completions. top_k, min_p, repetition_penalty and ignore_eos are ours."""

    model: ModelName
    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=16, fail_fast=True)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    ignore_eos: bool = False  # for measurements: the answer has max_tokens, whatever the model says
    stream: bool = False
    stream_options: StreamOptions | None = None

    @property
    def stop_strings(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


RoundedFormat = Literal["w4", "w4s", "w8", "f16", "bf16"]  # ROUNDED_TO of tpid.model.weights


class ImportBody(JsonBody):
    """POST /tpid/import"""

    path: Annotated[str, Field(min_length=1, max_length=MAX_PATH_CHARS, pattern=r"^[^\x00]*$")]
    name: ModelName | None = None
    format: RoundedFormat | None = None
    replace: bool = False


class PullBody(JsonBody):
    """POST /tpid/pull"""

    name: ModelName
    format: RoundedFormat | None = None
    replace: bool = False


class LoadBody(JsonBody):
    """POST /tpid/load"""

    model: ModelName


class VerifyBody(JsonBody):
    """POST /tpid/verify"""

    model: ModelName


class PlanBody(JsonBody):
    """POST /tpid/plan"""

    model: ModelName
    memory: Size | None = None  # of this device, instead of its budget
    context_tokens: Annotated[int, Field(ge=16, le=1 << 30)] | None = None  # instead of the configured one


def first_fault(errors: Sequence[Mapping[str, Any]]) -> str:
    """The first of pydantic's errors, in a few words."""
    first = errors[0]
    where = ".".join(_shown(part) for part in first["loc"])
    reason = str(first["msg"]).removeprefix("Value error, ")
    return f"{where}: {reason}" if where else reason


def _shown(part: object) -> str:
    text = str(part)
    short = text if len(text) <= MAX_TOLD_CHARS else f"{text[:MAX_TOLD_CHARS]}…"
    return short if short.isprintable() else repr(short)

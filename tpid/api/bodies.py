"""What comes in over HTTP, checked. Field names are OpenAI's where OpenAI has the field."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tpid.model.weights import Format
from tpid.size import Size


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ChatMessage(_Body):
    role: Literal["system", "user", "assistant"]
    content: str


class StreamOptions(_Body):
    include_usage: bool = False


class ChatBody(_Body):
    """POST /v1/chat/completions. top_k, min_p, repetition_penalty and ignore_eos are ours."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
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


class ImportBody(_Body):
    """POST /tpid/import"""

    path: str
    name: str | None = None
    format: Format | None = None
    replace: bool = False


class PullBody(_Body):
    """POST /tpid/pull"""

    name: str
    format: Format | None = None
    replace: bool = False


class LoadBody(_Body):
    """POST /tpid/load"""

    model: str


class VerifyBody(_Body):
    """POST /tpid/verify"""

    model: str


class PlanBody(_Body):
    """POST /tpid/plan"""

    model: str
    memory: Size | None = None  # of this device, instead of its budget
    context_tokens: Annotated[int, Field(ge=16, le=1 << 30)] | None = None  # instead of the configured one


def first_fault(errors: list[Any]) -> str:
    """The first of pydantic's errors, in a few words."""
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])

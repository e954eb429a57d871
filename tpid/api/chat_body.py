"""The body of POST /v1/chat/completions. docs/api.md says of each field whether it is honoured, ignored or refused."""

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from tpid.api.bodies import JsonBody, PromptBody
from tpid.api.fields import MAX_CHOICES, LogitBias, Opaque, StopField, Switch, TextOrParts, only, sampling_of
from tpid.api.response_format import ResponseFormat, grammar_of
from tpid.api.tools import ToolChoice, Tools, template_call, tool_use
from tpid.engine.constraint import Grammar
from tpid.engine.prompt import ChatPrompt
from tpid.model.sampling import SamplingParams
from tpid.model.tool_format import ToolUse

MAX_TOP_LOGPROBS = 20  # as OpenAI

ReasoningEffort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

_THINKING_OFF = ("none", "minimal")
_OF_OURS = ("messages", "tools", "add_generation_prompt")  # variables of a template that are not the client's to set


class CalledFunction(JsonBody):
    name: str
    arguments: str = "{}"


class ToolCall(JsonBody):
    """Of an earlier answer."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: Opaque = None


class ChatMessage(JsonBody):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: TextOrParts | None = None
    name: str | None = None
    reasoning_content: str | None = None  # what the model thought, of the assistant
    refusal: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True)] | None = None
    tool_call_id: str | None = None
    audio: Annotated[None, only(because="models here take text only")] = None
    function_call: Annotated[None, only(because="use tool_calls")] = None
    annotations: Opaque = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and not self.tool_calls and not (self.refusal and self.role == "assistant"):
            raise ValueError("content is missing")
        return self

    def as_template(self) -> dict[str, object]:
        """As chat templates know it: they have no developer, and take arguments as an object."""
        message: dict[str, object] = {"role": "system" if self.role == "developer" else self.role}
        message["content"] = self.content if self.content is not None else self.refusal or ""
        if self.reasoning_content is not None:
            message["reasoning_content"] = self.reasoning_content
        if self.name is not None:
            message["name"] = self.name
        if self.tool_calls:
            message["tool_calls"] = [
                template_call(call.id, call.function.name, call.function.arguments) for call in self.tool_calls
            ]
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        return message


class StreamOptions(JsonBody):
    include_usage: Switch = False
    include_progress: Switch = False  # not OpenAI's
    include_obfuscation: Opaque = None


class ChatBody(PromptBody):
    """Null is each field's default."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]

    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: StopField = ()
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    logprobs: Switch = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: LogitBias | None = None
    response_format: Annotated[ResponseFormat, Field(discriminator="type")] | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: ReasoningEffort | None = None
    stream: Switch = False
    stream_options: StreamOptions | None = None

    # Not OpenAI's.
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    ignore_eos: Switch = False  # for measurements: the answer has max_tokens, whatever the model says
    chat_template_kwargs: dict[str, Any] | None = None  # variables of the model's template

    # Without effect here, whatever they are.
    user: Opaque = None
    safety_identifier: Opaque = None
    metadata: Opaque = None
    prediction: Opaque = None
    prompt_cache_key: Opaque = None
    prompt_cache_options: Opaque = None
    prompt_cache_retention: Opaque = None

    # Without effect at these values; refused at others.
    audio: Annotated[None, only(because="answers are text")] = None
    function_call: Annotated[None, only("none", "auto", because="it is superseded; use tools")] = None
    functions: Annotated[None, only([], because="it is superseded; use tools")] = None
    modalities: Annotated[None, only(["text"], because="answers are text")] = None
    moderation: Annotated[None, only(because="nothing is moderated here")] = None
    service_tier: Annotated[None, only("auto", "default", because="there is one queue for all")] = None
    store: Annotated[None, only(False, because="answers are not kept")] = None
    verbosity: Annotated[None, only("medium", because="say in the prompt how long it should be")] = None
    web_search_options: Annotated[None, only(because="models here cannot search the web")] = None

    @model_validator(mode="after")
    def _asks_for_logprobs(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs")
        return self

    @model_validator(mode="after")
    def _leaves_our_variables(self) -> Self:
        taken = [name for name in _OF_OURS if name in (self.chat_template_kwargs or {})]
        if taken:
            raise ValueError(f"chat_template_kwargs cannot set {taken[0]}")
        return self

    @property
    def usage_is_told(self) -> bool:
        """At the end of a stream."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def progress_is_told(self) -> bool:
        """In chunks of their own."""
        return self.stream_options is not None and self.stream_options.include_progress

    @property
    def sampling(self) -> SamplingParams:
        """Raises RequestError where a value is out of range."""
        return sampling_of(self)

    @property
    def answer_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return self.stop

    @property
    def n_answers(self) -> int:
        return self.n or 1

    @property
    def told_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def ignores_eos(self) -> bool:
        return self.ignore_eos

    @property
    def tool_use(self) -> ToolUse | None:
        """Raises RequestError."""
        return tool_use(self.tools, self.tool_choice, self.parallel_tool_calls)

    @property
    def grammar(self) -> Grammar | None:
        return grammar_of(self.response_format)

    @property
    def prompt(self) -> ChatPrompt:
        variables = thinking_variables(self.reasoning_effort) | (self.chat_template_kwargs or {})
        return ChatPrompt([message.as_template() for message in self.messages], variables=variables)


def thinking_variables(effort: str | None) -> dict[str, object]:
    """Of a chat template; None: the model thinks as its template has it."""
    return {} if effort is None else {"enable_thinking": effort not in _THINKING_OFF, "reasoning_effort": effort}

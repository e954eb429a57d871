"""The body of POST /v1/responses. docs/api.md says of each field whether it is honoured, ignored or refused."""

import json
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from tpid.api.asked import Plainly
from tpid.api.bodies import JsonBody, PromptBody
from tpid.api.chat_body import MAX_TOP_LOGPROBS, ReasoningEffort, thinking_variables
from tpid.api.fields import Opaque, Switch, default, only, sampling_of
from tpid.api.response_format import JsonObjectFormat, TextFormat
from tpid.api.responses.items import Input, template_messages
from tpid.api.tools import MAX_TOOLS, FunctionName, NamedFunction, NamedTool, Tool, ToolFunction, tool_use
from tpid.engine.constraint import Grammar
from tpid.engine.prompt import ChatPrompt
from tpid.model.sampling import SamplingParams
from tpid.model.tool_format import ToolUse

LOGPROBS = "message.output_text.logprobs"
NOT_KEPT = "answers are not kept; send what was said before as items of input"


class FunctionTool(JsonBody):
    """As in chats, but without an object around it."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None  # a JSON schema
    strict: bool | None = None  # told again: what must be a call is one by schema in any case
    allowed_callers: Opaque = None
    defer_loading: Opaque = None
    output_schema: Opaque = None

    def as_tool(self) -> Tool:
        function = ToolFunction(name=self.name, description=self.description, parameters=self.parameters)
        return Tool(type="function", function=function)


class FunctionChoice(NamedFunction):
    type: Literal["function"]


class JsonSchemaFormat(JsonBody):
    type: Literal["json_schema"]
    name: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None  # answers obey in any case


Format: TypeAlias = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]

_PLAIN = TextFormat(type="text")


class TextConfig(JsonBody):
    format: Annotated[Format, BeforeValidator(default(_PLAIN))] = _PLAIN
    verbosity: Annotated[None, only("medium", because="say in input how long it should be")] = None


class Reasoning(JsonBody):
    effort: ReasoningEffort | None = None
    summary: Opaque = None
    generate_summary: Opaque = None
    context: Opaque = None
    mode: Opaque = None


Included: TypeAlias = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]


class ResponsesBody(PromptBody, Plainly):
    """Null is each field's default."""

    input: Input
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    include: Annotated[list[Included], Field(fail_fast=True)] | None = None
    text: Annotated[TextConfig, BeforeValidator(default(TextConfig()))] = TextConfig()
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Annotated[Reasoning, BeforeValidator(default(Reasoning()))] = Reasoning()
    stream: Switch = False
    metadata: dict[str, str] | None = None  # told again in the response

    # Without effect here, whatever they are.
    user: Opaque = None
    safety_identifier: Opaque = None
    max_tool_calls: Opaque = None
    stream_options: Opaque = None
    prompt_cache_key: Opaque = None
    prompt_cache_options: Opaque = None
    prompt_cache_retention: Opaque = None

    # Without effect at these values; refused at others.
    access_programs: Annotated[None, only(because="there are none here")] = None
    background: Annotated[None, only(False, because="answers are not kept")] = None
    background_options: Annotated[None, only(because="answers are not kept")] = None
    context_management: Annotated[None, only([], because="send what shall be in the context")] = None
    conversation: Annotated[None, only(because=NOT_KEPT)] = None
    image: Annotated[None, only(because="models here take text only")] = None
    moderation: Annotated[None, only(because="nothing is moderated here")] = None
    previous_response_id: Annotated[None, only(because=NOT_KEPT)] = None
    stored_prompt: Annotated[None, only(because="there are no stored prompts"), Field(alias="prompt")] = None
    service_tier: Annotated[None, only("auto", "default", because="there is one queue for all")] = None
    store: Annotated[None, only(False, because="answers are not kept")] = None
    truncation: Annotated[None, only("disabled", because="send what shall be in the context")] = None

    @property
    def prompt(self) -> ChatPrompt:
        variables = thinking_variables(self.reasoning.effort)
        return ChatPrompt(template_messages(self.input, self.instructions), variables=variables)

    @property
    def sampling(self) -> SamplingParams:
        """Raises RequestError where a value is out of range."""
        return sampling_of(self)

    @property
    def answer_tokens(self) -> int | None:
        return self.max_output_tokens

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return ()

    @property
    def told_logprobs(self) -> int | None:
        asked = self.top_logprobs is not None or LOGPROBS in (self.include or [])
        return (self.top_logprobs or 0) if asked else None

    @property
    def grammar(self) -> Grammar | None:
        match self.text.format:
            case JsonObjectFormat():
                return Grammar(json_schema=json.dumps({"type": "object"}), field="text")
            case JsonSchemaFormat(schema_=schema):
                return Grammar(json_schema=json.dumps(schema), field="text")
        return None

    @property
    def tool_use(self) -> ToolUse | None:
        """Raises RequestError."""
        tools = [tool.as_tool() for tool in self.tools or []]
        choice = self.tool_choice
        if isinstance(choice, FunctionChoice):
            return tool_use(tools, NamedTool(type="function", function=NamedFunction(name=choice.name)), None)
        return tool_use(tools, choice, self.parallel_tool_calls)

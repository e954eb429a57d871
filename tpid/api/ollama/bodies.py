"""The bodies of Ollama's requests. docs/api.md says of each field what becomes of it."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, model_validator

from tpid.api.asked import Plainly
from tpid.api.bodies import MAX_NAME_CHARS, JsonBody, PromptBody
from tpid.api.chat_body import MAX_TOP_LOGPROBS, thinking_variables
from tpid.api.fields import Opaque, OrEmpty, Switch, default, only
from tpid.api.ollama.messages import NO_IMAGES, Message, template_messages
from tpid.api.ollama.options import Options
from tpid.api.tools import Tools, tool_use
from tpid.engine.constraint import Grammar
from tpid.engine.prompt import ChatPrompt, Prompt, TextPrompt
from tpid.model.sampling import SamplingParams
from tpid.model.tool_format import ToolUse

_LATEST = ":latest"  # a tag that says nothing

Model = Annotated[
    str, Field(min_length=1, max_length=MAX_NAME_CHARS), AfterValidator(lambda name: name.removesuffix(_LATEST))
]
Think = bool | Literal["low", "medium", "high"]
Format = Literal["", "json"] | dict[str, Any]


class ShowBody(JsonBody):
    """POST /api/show"""

    model: Annotated[Model, Field(validation_alias=AliasChoices("model", "name"))]
    verbose: Opaque = None


class AnswerBody(PromptBody, Plainly):
    """What /api/chat and /api/generate have in common. Null is each field's default."""

    model: Model
    options: Annotated[Options, BeforeValidator(default({}))] = Options()
    format: Format | None = None
    think: Think | None = None
    stream: Annotated[bool, BeforeValidator(default(True))] = True
    logprobs: Switch = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    unloads: Annotated[bool, BeforeValidator(lambda value: value in (0, "0", "0s")), Field(alias="keep_alive")] = False

    @property
    def sampling(self) -> SamplingParams:
        """Raises RequestError where a value is out of range."""
        return self.options.sampling

    @property
    def answer_tokens(self) -> int | None:
        return self.options.answer_tokens

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return self.options.stop

    @property
    def told_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs or self.top_logprobs else None

    @property
    def grammar(self) -> Grammar | None:
        if not self.format:  # an empty schema says nothing, too
            return None
        return Grammar(json_schema=json.dumps({"type": "object"} if self.format == "json" else self.format))

    @property
    def tool_use(self) -> ToolUse | None:
        return None

    @property
    def variables(self) -> dict[str, object]:
        """Of the model's chat template."""
        if isinstance(self.think, bool):
            return {"enable_thinking": self.think}
        return thinking_variables(self.think)

    @property
    def thoughts_are_told_apart(self) -> bool:
        """From the answer."""
        return self.think is not False


class ChatBody(AnswerBody):
    """POST /api/chat; without messages the model is only loaded."""

    messages: Annotated[tuple[Message, ...], Field(fail_fast=True), BeforeValidator(default(()))] = ()
    tools: Tools | None = None

    @property
    def tool_use(self) -> ToolUse | None:
        return tool_use(self.tools, None, None)

    @property
    def prompt(self) -> Prompt:
        return ChatPrompt(template_messages(self.messages), variables=self.variables)

    @property
    def only_loads(self) -> bool:
        return not self.messages


class GenerateBody(AnswerBody):
    """POST /api/generate; without a prompt the model is only loaded."""

    text: Annotated[OrEmpty, Field(alias="prompt")] = ""
    system: OrEmpty = ""
    raw: Switch = False

    context: Annotated[None, only([], because="send the messages so far to /api/chat")] = None
    images: Annotated[None, NO_IMAGES] = None
    suffix: Annotated[None, only("", because="models here continue a text, and fill no gap")] = None
    template: Annotated[None, only("", because="models here have their own; or send raw text")] = None
    width: Annotated[None, only(0, because="answers are text")] = None
    height: Annotated[None, only(0, because="answers are text")] = None
    steps: Annotated[None, only(0, because="answers are text")] = None

    @model_validator(mode="after")
    def _is_raw_or_has_a_system(self) -> Self:
        if self.raw and self.system:
            raise ValueError("raw text has no place for system; put it into the prompt")
        return self

    @property
    def prompt(self) -> Prompt:
        if self.raw:
            return TextPrompt(self.text)
        system = [{"role": "system", "content": self.system}] if self.system else []
        return ChatPrompt([*system, {"role": "user", "content": self.text}], variables=self.variables)

    @property
    def only_loads(self) -> bool:
        return not self.text

    @property
    def thoughts_are_told_apart(self) -> bool:
        return super().thoughts_are_told_apart and not self.raw

"""What a model is asked: a chat for its template, or text or tokens as they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """Made of JSON's types, as a chat template takes them."""

    messages: Sequence[Mapping[str, object]]
    tools: Sequence[Mapping[str, object]] | None = None
    variables: Mapping[str, object] = field(default_factory=dict)  # that the template may know, such as enable_thinking


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """To be continued; the model's own special tokens come around it as its tokenizer puts them."""

    text: str


@dataclass(frozen=True, slots=True)
class IdsPrompt:
    """Tokens as they are."""

    ids: Sequence[int]


Prompt: TypeAlias = ChatPrompt | TextPrompt | IdsPrompt

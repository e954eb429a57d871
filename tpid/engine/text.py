"""A model's way with text: tokenizer, chat template, and the tokens that end an answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tpid.errors import ChatTemplateError
from tpid.model.chat_template import ChatTemplate
from tpid.model.tokenizer import Tokenizer

if TYPE_CHECKING:  # a text process does without
    from tpid.pack.reader import Pack


@dataclass(frozen=True, slots=True)
class TextModel:
    tokenizer: Tokenizer
    template: ChatTemplate | None
    eos_ids: frozenset[int]

    def render(self, messages: Sequence[Mapping[str, object]]) -> str:
        """The prompt of a chat as text. Raises ChatTemplateError."""
        if self.template is None:
            raise ChatTemplateError("This model has no chat template.", hint="Use an instruct model for a chat.")
        return self.template.render(messages)

    def encode(self, prompt: str) -> list[int]:
        """Of a rendered prompt, which holds its special tokens already."""
        return self.tokenizer.encode(prompt, add_special=False)

    def encode_chat(self, messages: Sequence[Mapping[str, object]]) -> list[int]:
        """The prompt of a chat, as transformers' `apply_chat_template` gives it. Raises ChatTemplateError."""
        return self.encode(self.render(messages))


def load_text_model(pack: "Pack") -> TextModel:
    """Raises PackError, TokenizerError or ChatTemplateError."""
    tokens = pack.manifest.tokens
    source = pack.chat_template()
    template = None
    if source is not None:
        template = ChatTemplate(source, tokens.bos_token, tokens.eos_token, other_tokens=tokens.other_tokens)
    return TextModel(Tokenizer.from_json(pack.tokenizer_json()), template, frozenset(tokens.eos_ids))

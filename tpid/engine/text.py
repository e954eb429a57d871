"""A model's way with text: tokenizer, chat template, and the tokens that end an answer."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tpid.engine.prompt import ChatPrompt, IdsPrompt, Prompt, TextPrompt
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

    def render(self, prompt: ChatPrompt) -> str:
        """The prompt of a chat as text. Raises ChatTemplateError, RequestError."""
        if self.template is None:
            raise ChatTemplateError("This model has no chat template.", hint="Use an instruct model for a chat.")
        return self.template.render(prompt.messages, tools=prompt.tools, add_generation_prompt=True, **prompt.variables)

    def encode(self, prompt: Prompt) -> list[int]:
        """Ids, as transformers gives them: of a chat by `apply_chat_template`, of a text by its tokenizer.

        Raises ChatTemplateError or RequestError.
        """
        if isinstance(prompt, IdsPrompt):
            return list(prompt.ids)
        if isinstance(prompt, TextPrompt):
            return self.tokenizer.encode(prompt.text, add_special=True)
        return self.encode_rendered(self.render(prompt))

    def encode_rendered(self, text: str) -> list[int]:
        """Of a chat's text, which holds its special tokens already."""
        return self.tokenizer.encode(text, add_special=False)


def load_text_model(pack: "Pack") -> TextModel:
    """Raises PackError, TokenizerError or ChatTemplateError."""
    tokens = pack.manifest.tokens
    source = pack.chat_template()
    template = None
    if source is not None:
        template = ChatTemplate(source, tokens.bos_token, tokens.eos_token, other_tokens=tokens.other_tokens)
    return TextModel(Tokenizer.from_json(pack.tokenizer_json()), template, frozenset(tokens.eos_ids))

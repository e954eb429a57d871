"""Text to ids and back: what the engine needs of the tokenizers library, with our errors."""

import json
from collections.abc import Iterable, Mapping
from typing import Self

import tokenizers

from tpid.errors import RequestError
from tpid.model.tokenizer_parts import library_errors


class Tokenizer:
    """Gives the very ids and texts of transformers (`clean_up_tokenization_spaces=False`). Safe to share by threads."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        backend.no_truncation()  # some published files come with the settings of their training
        backend.no_padding()
        self._backend = backend
        added = backend.get_added_tokens_decoder().values()
        self._special = frozenset(token.content for token in added if token.special)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """`data` is a `tokenizer.json`. Raises TokenizerError."""
        with library_errors("Reading tokenizer.json"):
            return cls(tokenizers.Tokenizer.from_buffer(data))

    @property
    def vocab_size(self) -> int:
        """Tokens that have text, added ones included; the embedding may be padded to more."""
        return self._backend.get_vocab_size()

    @property
    def max_id(self) -> int:
        return max(self._backend.get_vocab().values(), default=-1)

    def encode(self, text: str, add_special: bool) -> list[int]:
        """With `add_special`, BOS and EOS as the model wants them: not for text that a chat template has rendered.

        Raises RequestError where `text` is not valid Unicode.
        """
        _check_unicode(text)
        with library_errors("Tokenizing the text"):
            return self._backend.encode(text, add_special_tokens=add_special).ids

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Ids without a token have no text."""
        with library_errors("Decoding the tokens"):
            return self._backend.decode(list(ids), skip_special_tokens=skip_special)

    def token_to_id(self, token: str) -> int | None:
        return self._backend.token_to_id(token)

    def id_to_token(self, id: int) -> str | None:
        return self._backend.id_to_token(id)

    @property
    def special_tokens(self) -> frozenset[str]:
        """The texts that decoding leaves out."""
        return self._special

    def is_special(self, token: str) -> bool:
        """Whether decoding leaves `token` out."""
        return token in self._special

    def decoder_settings(self) -> Mapping[str, object] | None:
        """The `decoder` of tokenizer.json; None where tokens are joined by spaces."""
        decoder = self._backend.decoder
        if decoder is None:
            return None
        settings: dict[str, object] = json.loads(decoder.__getstate__())
        return settings


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"The text has a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}.",
            hint="Send valid Unicode.",
        ) from error

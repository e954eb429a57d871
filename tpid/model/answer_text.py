"""The text of an answer while its tokens come in: decoded, without special tokens, up to the first stop string."""

from collections.abc import Sequence
from typing import Protocol

from tpid.model.detokenizer import StreamDecoder, Tokens
from tpid.model.stop_strings import StopStrings


class AnswerTokens(Tokens, Protocol):
    """What the text of an answer asks of a tokenizer."""

    @property
    def special_tokens(self) -> frozenset[str]:
        """The texts that decoding leaves out."""
        ...


class AnswerText:
    """One for each answer."""

    def __init__(self, tokenizer: AnswerTokens, stop: Sequence[str]) -> None:
        """Raises RequestError for stop strings that cannot be, TokenizerError where the text cannot be streamed."""
        self._tokenizer = tokenizer
        self._decoder = StreamDecoder(tokenizer)
        self._stops = StopStrings(stop, tokenizer.special_tokens if stop else ())

    def push(self, id: int) -> tuple[str, bool]:
        """Text that is final now, and whether a stop string has ended the answer."""
        token = self._tokenizer.id_to_token(id)
        if token is None or not self._stops.see_hidden or not self._tokenizer.is_special(token):
            return self._stops.push(self._decoder.push(id))
        # Where hidden tokens count, half a character in front of one is not completed behind it.
        before, stopped = self._stops.push(self._decoder.flush())
        if stopped:
            return before, True
        text, stopped = self._stops.push_hidden(token)
        return before + text, stopped

    def finish(self) -> tuple[str, bool]:
        """The rest, when no more tokens come, and whether a stop string is in it."""
        text, stopped = self._stops.push(self._decoder.flush())
        return (text, True) if stopped else (text + self._stops.flush(), False)

"""Answers of a given form: which tokens may come next, by llguidance. The one home of that library.

Runs in a text process: a schema may come from anybody, and a process has limits of time and memory.
"""

import json
from collections.abc import Collection, Mapping
from typing import Final

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from tpid.errors import RequestError
from tpid.model.token_bytes import token_bytes
from tpid.model.tokenizer import Tokenizer

MAX_SOURCE_CHARS: Final = 1 << 18
# Between the items of JSON: enough for an indented text, and not for a model that writes nothing but blanks.
_WHITESPACE: Final = r"[ \n]{0,16}"
_LONGEST_TOKEN_BYTES: Final = 64


class GrammarTokens:
    """A model's tokens, as grammars see them. Takes a second to make, and some 100 MB for 150,000 tokens."""

    def __init__(self, tokenizer: Tokenizer, eos_ids: Collection[int]) -> None:
        tokens = [token_bytes(tokenizer, id) for id in range(tokenizer.max_id + 1)]
        special = [id for id in range(len(tokens)) if tokenizer.is_special(tokenizer.id_to_token(id) or "")]
        ends = [id for id in sorted(eos_ids) if id < len(tokens)]
        if not ends:  # the library wants one: behind the model's tokens, so that it never comes
            ends = [len(tokens)]
            tokens.append(b"<end>")
            special += ends
        spelled = TokenizerWrapper(_Spelled(tokens, sorted({*special, *ends}), ends[0]))
        self.table = LLTokenizer(spelled, n_vocab=len(tokens), eos_token=ends, slices=LLTokenizer.json_slices())


class GrammarMatcher:
    """One for each answer: says what may come, and is told what came."""

    def __init__(self, tokens: GrammarTokens, grammar: Mapping[str, str]) -> None:
        """`grammar`: {"json_schema": JSON} or {"lark": text}. Raises RequestError where it is not sound."""
        if sum(map(len, grammar.values())) > MAX_SOURCE_CHARS:
            raise RequestError(f"The grammar or schema has more than {MAX_SOURCE_CHARS} characters.")
        try:
            source = _source(grammar)
        except ValueError as error:
            raise _unsound(str(error)) from error
        self._matcher = LLMatcher(tokens.table, source, log_level=0, limits=LLParserLimits())
        self._check()

    def mask(self) -> bytes:
        """A bit for each token, the lowest bit first; none is set where nothing may come. Raises RequestError."""
        mask = self._matcher.compute_bitmask()
        self._check()
        return mask

    def accept(self, id: int) -> None:
        """Raises RequestError where it may not come."""
        self._matcher.consume_token(id)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise _unsound(self._matcher.get_error())


class _Spelled:
    """What the library asks of a tokenizer. It runs none of the model's code: any spelling of a text will do."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes], special_token_ids: list[int], eos_token_id: int) -> None:
        self.tokens = tokens
        self.special_token_ids = special_token_ids
        self.eos_token_id = eos_token_id
        hidden = set(special_token_ids)
        self._ids = {token: id for id, token in enumerate(tokens) if token and id not in hidden}

    def __call__(self, text: bytes) -> list[int]:
        """The longest token each time; bytes without a token are passed over."""
        ids, at = [], 0
        while at < len(text):
            for end in range(min(len(text), at + _LONGEST_TOKEN_BYTES), at, -1):
                if (id := self._ids.get(text[at:end])) is not None:
                    ids.append(id)
                    break
            else:
                end = at + 1
            at = end
        return ids


def _source(grammar: Mapping[str, str]) -> str:
    """Raises ValueError."""
    if "lark" in grammar:
        return LLMatcher.grammar_from_lark(grammar["lark"])
    schema = json.loads(grammar["json_schema"])
    return LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": _WHITESPACE})


def _unsound(reason: str) -> RequestError:
    short = " ".join(reason.split())[:300]
    return RequestError(
        f"The grammar or schema of the answer cannot be used: {short.rstrip('.')}.",
        hint="Leave out what is not supported.",
    )

"""The tokenizer that a GGUF file's metadata describes (`tokenizer.ggml.*` and `tokenizer.chat_template`).

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from tokenizers import Tokenizer

from tpid.errors import TokenizerError, UnsupportedModelError
from tpid.model.byte_level_bpe import FAMILIES, Family, byte_level_tokenizer
from tpid.model.limits import MAX_VOCAB
from tpid.model.sentencepiece_bpe import Pieces, sentencepiece_tokenizer
from tpid.model.source import TokenizerFiles
from tpid.model.tokenizer_parts import TokenType, add_bos_eos, ending_ids, library_errors

MAX_MERGES = 1 << 22

_WHERE = "The GGUF metadata"
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
_SENTENCEPIECE_BOS, _SENTENCEPIECE_EOS = 1, 2  # llama.cpp's defaults for old files

_T = TypeVar("_T", bound=float | str)


def tokenizer_files_from_gguf(metadata: Mapping[str, object]) -> TokenizerFiles:
    """Raises TokenizerError for bad metadata, UnsupportedModelError for a tokenizer or a splitter we do not know."""
    fields = _Fields(metadata)
    model = fields.text("model")
    if model == "gpt2":
        family = _family(fields)
        tokenizer = _byte_level(fields, family)
        return _files(fields, tokenizer, bos_id=None, eos_id=None, adds_bos=family.adds_bos)
    if model == "llama":
        tokenizer = _sentencepiece(fields)
        return _files(fields, tokenizer, bos_id=_SENTENCEPIECE_BOS, eos_id=_SENTENCEPIECE_EOS, adds_bos=True)
    if model is None:
        raise TokenizerError(
            f"{_WHERE} holds no tokenizer.", hint="Use a file that was converted together with its tokenizer."
        )
    raise UnsupportedModelError(f"{_WHERE} asks for tokenizer {model[:60]!r}; tpid knows 'gpt2' and 'llama'.")


def _family(fields: "_Fields") -> Family:
    name = fields.text("pre") or "default"
    if name not in FAMILIES:
        raise UnsupportedModelError(
            f"{_WHERE} asks for the pre-tokenizer {name[:60]!r}, which tpid does not know.",
            hint=f"It knows {', '.join(sorted(FAMILIES))}.",
        )
    return FAMILIES[name]


def _byte_level(fields: "_Fields", family: Family) -> Tokenizer:
    tokens = fields.tokens()
    merges = fields.merges()
    if merges is None:
        raise TokenizerError(f"{_WHERE} has a byte-level vocabulary but no tokenizer.ggml.merges.")
    return byte_level_tokenizer(tokens, fields.types(len(tokens)), merges, family, _WHERE)


def _sentencepiece(fields: "_Fields") -> Tokenizer:
    tokens = fields.tokens()
    scores = fields.array("scores", float, MAX_VOCAB)
    if scores is None:
        raise TokenizerError(f"{_WHERE} has a SentencePiece vocabulary but no tokenizer.ggml.scores.")
    pieces = Pieces(tokens, scores, fields.types(len(tokens)), fields.flag("add_space_prefix", True))
    return sentencepiece_tokenizer(pieces, _WHERE, fields.merges())


def _files(
    fields: "_Fields", tokenizer: Tokenizer, *, bos_id: int | None, eos_id: int | None, adds_bos: bool
) -> TokenizerFiles:
    tokens = fields.tokens()
    bos = _token(tokens, fields.id("bos_token_id", len(tokens), bos_id))
    eos = _token(tokens, fields.id("eos_token_id", len(tokens), eos_id))
    add_bos, add_eos = fields.flag("add_bos_token", adds_bos), fields.flag("add_eos_token", False)
    declared = {fields.id(key, len(tokens), None) for key in _END_KEYS} | ({eos[1]} if eos else set())
    with library_errors("Writing the tokenizer of the GGUF metadata"):
        if (add_bos and bos) or (add_eos and eos):
            add_bos_eos(tokenizer, bos if add_bos else None, eos if add_eos else None)
        return TokenizerFiles(
            tokenizer_json=tokenizer.to_str().encode(),
            chat_template=fields.text("chat_template", prefix="tokenizer."),
            bos_token=bos[0] if bos else None,
            eos_token=eos[0] if eos else None,
            eos_ids=ending_ids(tokenizer, [id for id in declared if id is not None]),
        )


def _token(tokens: Sequence[str], id: int | None) -> tuple[str, int] | None:
    return None if id is None or id >= len(tokens) else (tokens[id], id)


class _Fields:
    """Metadata is of unknown origin: each field's type, length and range is checked when it is read."""

    def __init__(self, metadata: Mapping[str, object]) -> None:
        self._metadata = metadata

    def tokens(self) -> Sequence[str]:
        tokens = self.array("tokens", str, MAX_VOCAB)
        if not tokens:
            raise TokenizerError(f"{_WHERE} holds no tokenizer.ggml.tokens.")
        return tokens

    def types(self, n_tokens: int) -> Sequence[int]:
        types = self.array("token_type", int, MAX_VOCAB)
        if types is None:
            return [TokenType.NORMAL] * n_tokens
        if len(types) != n_tokens:
            raise TokenizerError(f"{_WHERE} has {n_tokens} tokens but {len(types)} token types.")
        return types

    def merges(self) -> list[tuple[str, str]] | None:
        lines = self.array("merges", str, MAX_MERGES)
        if lines is None:
            return None
        merges = [tuple(line.split(" ")) for line in lines]
        if not all(map(_is_pair, merges)):
            bad = next(line for line, merge in zip(lines, merges, strict=True) if not _is_pair(merge))
            raise TokenizerError(f"{_WHERE} has merge {bad[:60]!r}, which is not two tokens.")
        return [(merge[0], merge[1]) for merge in merges]

    def array(self, key: str, item: type[_T], max_items: int) -> Sequence[_T] | None:
        """A float array may hold whole numbers too."""
        value = self._metadata.get(f"tokenizer.ggml.{key}")
        if value is None:
            return None
        if not isinstance(value, list | tuple):
            raise self._refuse(key, value, "an array")
        if len(value) > max_items:
            raise TokenizerError(f"{_WHERE} has {len(value)} items in tokenizer.ggml.{key}, more than {max_items}.")
        allowed = {float, int} if item is float else {item}
        if not set(map(type, value)) <= allowed:
            raise TokenizerError(f"{_WHERE} has items in tokenizer.ggml.{key} that are not of type {item.__name__}.")
        return value

    def id(self, key: str, n_tokens: int, default: int | None) -> int | None:
        value = self._metadata.get(f"tokenizer.ggml.{key}", default)
        if value is None or (type(value) is int and (0 <= value < n_tokens or value == default)):
            return value
        raise self._refuse(key, value, f"a token's id below {n_tokens}")

    def flag(self, key: str, default: bool) -> bool:
        value = self._metadata.get(f"tokenizer.ggml.{key}", default)
        if not isinstance(value, bool):
            raise self._refuse(key, value, "true or false")
        return value

    def text(self, key: str, prefix: str = "tokenizer.ggml.") -> str | None:
        value = self._metadata.get(prefix + key)
        if value is not None and not isinstance(value, str):
            raise self._refuse(key, value, "a string", prefix)
        return value

    def _refuse(self, key: str, value: object, wanted: str, prefix: str = "tokenizer.ggml.") -> TokenizerError:
        shown = f"a {type(value).__name__}" if isinstance(value, list | tuple | dict) else repr(value)[:60]
        return TokenizerError(f"{_WHERE} says {prefix}{key} = {shown}, which is not {wanted}.")


def _is_pair(merge: tuple[str, ...]) -> bool:
    return len(merge) == 2 and all(merge)

"""The tokenizer that a GGUF file's metadata describes (`tokenizer.ggml.*` and `tokenizer.chat_template`).

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from tokenizers import Tokenizer

from tpid.errors import TokenizerError, UnsupportedModelError
from tpid.model.byte_level_bpe import FAMILIES, Family, byte_level_tokenizer
from tpid.model.gguf.special_tokens import SPECIAL_ROLES, SpecialTokens, settle_bytes, settle_special_tokens
from tpid.model.limits import MAX_VOCAB
from tpid.model.sentencepiece_bpe import Pieces, derive_merges, sentencepiece_tokenizer
from tpid.model.source import TokenizerFiles
from tpid.model.tokenizer_parts import TokenType, add_bos_eos, library_errors

MAX_MERGES = 1 << 22

_WHERE = "The GGUF metadata"
_HINT = "Take another conversion of the model, or its Hugging Face directory."
_DEFAULT_ROLES: Mapping[str, Mapping[str, int]] = {"gpt2": {}, "llama": {"bos": 1, "eos": 2}}  # those of llama.cpp
_TEMPLATE_NAMES = {  # roles as chat templates know them
    "unknown": "unk_token",
    "padding": "pad_token",
    "seperator": "sep_token",
    "cls": "cls_token",
    "mask": "mask_token",
}
_CHAT_TEMPLATE = "tokenizer.chat_template"
_NO_TOKEN = (-1, 0xFFFFFFFF)  # how files say that there is none
_LLAMA3_START = "<|begin_of_text|>"

_T = TypeVar("_T", bound=float | str)


def tokenizer_files_from_gguf(metadata: Mapping[str, object]) -> TokenizerFiles:
    """Raises TokenizerError for bad metadata, UnsupportedModelError for a tokenizer or a splitter we do not know."""
    try:
        return _read(_Fields(metadata))
    except TokenizerError as error:
        raise TokenizerError(error.message, hint=error.hint or _HINT) from error


def _read(fields: "_Fields") -> TokenizerFiles:
    model = fields.text("model")
    if model is None:
        raise TokenizerError(
            f"{_WHERE} holds no tokenizer.", hint="Use a file that was converted together with its tokenizer."
        )
    if model == "gpt2":
        return _byte_level(fields)
    if model == "llama":
        return _sentencepiece(fields)
    raise UnsupportedModelError(f"{_WHERE} asks for tokenizer {model[:60]!r}; tpid knows 'gpt2' and 'llama'.")


def _byte_level(fields: "_Fields") -> TokenizerFiles:
    family = _family(fields)
    types = fields.types()
    tokens = fields.tokens(types)
    merges = fields.merges()
    if merges is None:
        raise TokenizerError(f"{_WHERE} has a byte-level vocabulary but no tokenizer.ggml.merges.")
    roles = fields.roles(len(tokens), _DEFAULT_ROLES["gpt2"])
    merged = {left + right for left, right in merges}
    special = settle_special_tokens(tokens, types, roles, merged, fields.chat_template())
    tokenizer = byte_level_tokenizer(tokens, special.types, merges, family, _WHERE)
    return _files(fields, tokenizer, tokens, roles, special, adds_bos=family.adds_bos)


def _family(fields: "_Fields") -> Family:
    name = fields.text("pre")
    if name is None:
        name = _guessed_family(fields)
        fields.notes.append(
            f"The GGUF file has no tokenizer.ggml.pre: how its text is split is guessed ({name}). "
            "If answers are poor, take a newer conversion of the model."
        )
    if name not in FAMILIES:
        raise UnsupportedModelError(
            f"{_WHERE} asks for the pre-tokenizer {name[:60]!r}, which tpid does not know.",
            hint=f"It knows {', '.join(sorted(FAMILIES))}.",
        )
    return FAMILIES[name]


def _guessed_family(fields: "_Fields") -> str:
    if fields.text("architecture", prefix="general.") in ("qwen2", "qwen3"):
        return "qwen2"
    return "llama-bpe" if _LLAMA3_START in fields.raw_tokens() else "default"


def _sentencepiece(fields: "_Fields") -> TokenizerFiles:
    types = fields.types()
    tokens = fields.tokens(types)
    scores = fields.array("scores", float, MAX_VOCAB)
    if scores is None:
        raise TokenizerError(f"{_WHERE} has a SentencePiece vocabulary but no tokenizer.ggml.scores.")
    types = settle_bytes(tokens, types)
    pieces = Pieces(tokens, scores[: len(tokens)], types, fields.flag("add_space_prefix", True))
    merges = fields.merges()
    if merges is None:
        merges = derive_merges(pieces, _WHERE)
    roles = fields.roles(len(tokens), _DEFAULT_ROLES["llama"])
    merged = {left + right for left, right in merges}
    special = settle_special_tokens(tokens, types, roles, merged, fields.chat_template())
    tokenizer = sentencepiece_tokenizer(replace(pieces, types=special.types), _WHERE, merges)
    return _files(fields, tokenizer, tokens, roles, special, adds_bos=True)


def _files(
    fields: "_Fields",
    tokenizer: Tokenizer,
    tokens: Sequence[str],
    roles: Mapping[str, int],
    special: SpecialTokens,
    *,
    adds_bos: bool,
) -> TokenizerFiles:
    bos, eos = (_token(tokens, roles.get(role)) for role in ("bos", "eos"))
    add_bos, add_eos = fields.flag("add_bos_token", adds_bos), fields.flag("add_eos_token", False)
    with library_errors("Writing the tokenizer of the GGUF metadata"):
        if (add_bos and bos) or (add_eos and eos):
            add_bos_eos(tokenizer, bos if add_bos else None, eos if add_eos else None)
        return TokenizerFiles(
            tokenizer_json=tokenizer.to_str().encode(),
            chat_template=fields.chat_template(),
            bos_token=bos[0] if bos else None,
            eos_token=eos[0] if eos else None,
            eos_ids=tuple(sorted(special.end_ids)),
            other_tokens={name: tokens[roles[role]] for role, name in _TEMPLATE_NAMES.items() if role in roles},
            notes=(*fields.notes, *special.notes),
        )


def _token(tokens: Sequence[str], id: int | None) -> tuple[str, int] | None:
    return None if id is None else (tokens[id], id)


class _Fields:
    """Metadata is of unknown origin: each field's type, length and range is checked when it is read."""

    def __init__(self, metadata: Mapping[str, object]) -> None:
        self._metadata = metadata
        self.notes: list[str] = []  # what was guessed or passed over

    def raw_tokens(self) -> Sequence[str]:
        tokens = self.array("tokens", str, MAX_VOCAB)
        if not tokens:
            raise TokenizerError(f"{_WHERE} holds no tokenizer.ggml.tokens.")
        return tokens

    def tokens(self, types: Sequence[int]) -> list[str]:
        """Each has a text: llama.cpp's for those without, and one for each unused token whose text is taken."""
        tokens = list(self.raw_tokens())
        empty = [id for id, token in enumerate(tokens) if not token]
        for id in empty:
            tokens[id] = f"[EMPTY_{id}]"
        if empty:
            self.notes.append(f"The GGUF file has tokens without text: {len(empty)}, the first with id {empty[0]}.")
        taken = set()
        for id, token in enumerate(tokens):
            if token in taken and types[id] == TokenType.UNUSED:
                tokens[id] = f"[UNUSED_{id}]"
            taken.add(tokens[id])
        return tokens

    def types(self) -> Sequence[int]:
        n_tokens = len(self.raw_tokens())
        types = self.array("token_type", int, MAX_VOCAB)
        if types is None:
            self.notes.append("The GGUF file has no tokenizer.ggml.token_type: which tokens are special is guessed.")
            return [TokenType.NORMAL] * n_tokens
        if len(types) < n_tokens:
            raise TokenizerError(f"{_WHERE} has {n_tokens} tokens but {len(types)} token types.")
        return types[:n_tokens]

    def roles(self, n_tokens: int, defaults: Mapping[str, int]) -> dict[str, int]:
        """Ids by SPECIAL_ROLES; one that is no token's is passed over with a note, as llama.cpp does."""
        roles = {role: id for role, id in defaults.items() if id < n_tokens}
        for role in SPECIAL_ROLES:
            key = f"{role}_token_id"
            value = self._metadata.get(f"tokenizer.ggml.{key}")
            if value is None:
                continue
            if type(value) is not int:
                raise self._refuse(key, value, "a token's id")
            if 0 <= value < n_tokens:
                roles[role] = value
            elif value not in _NO_TOKEN:
                self.notes.append(f"The GGUF file says {key} = {value}, but has {n_tokens} tokens: passed over.")
        return roles

    def chat_template(self) -> str | None:
        template = self.text("chat_template", prefix="tokenizer.")
        others = [key for key in self._metadata if key.startswith(f"{_CHAT_TEMPLATE}.")]
        note = f"The GGUF file has {len(others)} chat templates with names, but no {_CHAT_TEMPLATE}: there is no chat."
        if template is None and others and note not in self.notes:
            self.notes.append(note)
        return template

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

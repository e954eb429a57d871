"""The tokenizer of a directory in the layout of Hugging Face.

`tokenizer.json`, or else SentencePiece's `tokenizer.model`; beside it `tokenizer_config.json`,
`special_tokens_map.json`, `generation_config.json`, `config.json` and `chat_template.jinja`, each of them optional.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from tokenizers import AddedToken

from tpid.errors import ModelFileError, TokenizerError
from tpid.model.jsonfile import read_json_object
from tpid.model.limits import MAX_VOCAB
from tpid.model.sentencepiece_bpe import sentencepiece_tokenizer
from tpid.model.sentencepiece_file import read_sentencepiece
from tpid.model.source import TokenizerFiles
from tpid.model.tokenizer_parts import add_bos_eos, ending_ids, library_errors
from tpid.model.weightfile import WeightFile

MAX_TOKENIZER_BYTES = 128 << 20  # that of Gemma 3, with 262 000 tokens, takes 33 MB
MAX_CONFIG_BYTES = 16 << 20
MAX_TEMPLATE_BYTES = 1 << 20

_SPECIAL_KEYS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_TEMPLATE_NAME = "default"  # of several that a model may come with

_Object = Mapping[str, object]


def tokenizer_files_from_directory(path: Path) -> TokenizerFiles:
    """Raises TokenizerError, and UnsupportedModelError for a `tokenizer.model` that is not BPE."""
    try:
        return _read(path)
    except ModelFileError as error:
        raise TokenizerError(error.message, hint=error.hint) from error


def _read(path: Path) -> TokenizerFiles:
    settings = _Settings(
        path / "tokenizer_config.json",
        _optional_object(path / "tokenizer_config.json"),
        _optional_object(path / "special_tokens_map.json"),
    )
    if (path / "tokenizer.json").is_file():
        tokenizer, bos, eos = _from_tokenizer_json(path / "tokenizer.json", settings)
    elif (path / "tokenizer.model").is_file():
        tokenizer, bos, eos = _from_sentencepiece(path / "tokenizer.model", settings)
    else:
        raise TokenizerError(
            f"{path} has neither a tokenizer.json nor a tokenizer.model.",
            hint="Download the model's tokenizer.json into it.",
        )
    with library_errors(f"Reading the tokenizer of {path}"):
        bos = bos if bos is not None else _token_of(path, tokenizer, "bos_token_id")
        eos = eos if eos is not None else _token_of(path, tokenizer, "eos_token_id")
        eos_id = tokenizer.token_to_id(eos) if eos is not None else None
        declared = _declared_ids(path, "eos_token_id") + ([eos_id] if eos_id is not None else [])
        return TokenizerFiles(
            tokenizer_json=tokenizer.to_str().encode(),
            chat_template=_chat_template(path, settings),
            bos_token=bos,
            eos_token=eos,
            eos_ids=ending_ids(tokenizer, declared),
        )


_Parts = tuple[tokenizers.Tokenizer, str | None, str | None]  # tokenizer, BOS, EOS


def _from_tokenizer_json(path: Path, settings: "_Settings") -> _Parts:
    data = _file_bytes(path, MAX_TOKENIZER_BYTES)
    with library_errors(f"Reading {path}"):
        tokenizer = tokenizers.Tokenizer.from_buffer(data)
        _add_missing(tokenizer, settings, path)
    # add_bos_token and add_eos_token have no say here, as in transformers: tokenizer.json says what is added.
    return tokenizer, settings.token("bos_token"), settings.token("eos_token")


def _from_sentencepiece(path: Path, settings: "_Settings") -> _Parts:
    file = read_sentencepiece(_file_bytes(path, MAX_TOKENIZER_BYTES), str(path))
    tokenizer = sentencepiece_tokenizer(file.pieces, str(path))
    with library_errors(f"Reading the tokenizer beside {path}"):
        _add_missing(tokenizer, settings, path)
    bos = settings.token("bos_token") or _piece(file.pieces.tokens, file.bos_id)
    eos = settings.token("eos_token") or _piece(file.pieces.tokens, file.eos_id)
    add_bos = settings.flag("add_bos_token") is not False  # these models were trained with it
    _surround(tokenizer, bos if add_bos else None, eos if settings.flag("add_eos_token") else None)
    return tokenizer, bos, eos


def _surround(tokenizer: tokenizers.Tokenizer, bos: str | None, eos: str | None) -> None:
    bos_id = tokenizer.token_to_id(bos) if bos is not None else None
    eos_id = tokenizer.token_to_id(eos) if eos is not None else None
    add_bos_eos(
        tokenizer,
        (bos, bos_id) if bos is not None and bos_id is not None else None,
        (eos, eos_id) if eos is not None and eos_id is not None else None,
    )


def _piece(tokens: Sequence[str], id: int | None) -> str | None:
    return tokens[id] if id is not None else None


def _add_missing(tokenizer: tokenizers.Tokenizer, settings: "_Settings", path: Path) -> None:
    """Tokens, and marks of tokens as special, that only the settings know."""
    known = {token.content: id for id, token in tokenizer.get_added_tokens_decoder().items()}
    for id, token in settings.added_tokens():
        if known.get(token.content) == id:
            continue
        tokenizer.add_tokens([token])
        if tokenizer.token_to_id(token.content) != id:
            raise TokenizerError(
                f"{path} gives token {token.content[:60]!r} the id {tokenizer.token_to_id(token.content)}, "
                f"tokenizer_config.json {id}.",
                hint="The files are not of one model: download them again.",
            )
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    unmarked = [token for token in settings.special_tokens() if token not in special]
    tokenizer.add_special_tokens([token for token in unmarked if tokenizer.token_to_id(token) is not None])


def _chat_template(path: Path, settings: "_Settings") -> str | None:
    file = path / "chat_template.jinja"
    if not file.is_file():
        return settings.chat_template()
    try:
        return _file_bytes(file, MAX_TEMPLATE_BYTES).decode()
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{file} is not UTF-8.") from error


def _token_of(path: Path, tokenizer: tokenizers.Tokenizer, key: str) -> str | None:
    ids = _declared_ids(path, key)
    return tokenizer.id_to_token(ids[0]) if ids else None


def _declared_ids(path: Path, key: str) -> list[int]:
    """One id or a list of them, in generation_config.json or in config.json."""
    ids: list[int] = []
    for name in ("generation_config.json", "config.json"):
        value = _optional_object(path / name).get(key)
        several = value if isinstance(value, list) else [value] if value is not None else []
        for id in several:
            if isinstance(id, bool) or not isinstance(id, int) or not 0 <= id < MAX_VOCAB:
                raise TokenizerError(f"{path / name} says {key} = {str(value)[:60]}, which is not a token's id.")
            ids.append(id)
    return ids


def _optional_object(path: Path) -> _Object:
    return read_json_object(path, MAX_CONFIG_BYTES) if path.is_file() else {}


def _file_bytes(path: Path, max_bytes: int) -> bytes:
    file = WeightFile(path)
    try:
        if file.size_bytes > max_bytes:
            raise TokenizerError(f"{path} has {file.size_bytes} bytes, more than the {max_bytes} it may have.")
        return file.read(0, file.size_bytes).tobytes()
    finally:
        file.close()


@dataclass(frozen=True, slots=True)
class _Settings:
    """tokenizer_config.json, and special_tokens_map.json where that has no say. All methods raise TokenizerError."""

    path: Path
    config: _Object
    special: _Object

    def token(self, key: str) -> str | None:
        value = self.config.get(key) or self.special.get(key)
        if isinstance(value, dict):
            value = value.get("content")
        if value is not None and not isinstance(value, str):
            raise self._refuse(key, "a token")
        return value

    def flag(self, key: str) -> bool | None:
        value = self.config.get(key)
        if value is not None and not isinstance(value, bool):
            raise self._refuse(key, "true or false")
        return value

    def chat_template(self) -> str | None:
        """One template, or a list of `{"name": …, "template": …}`."""
        value = self.config.get("chat_template")
        if isinstance(value, list):
            value = next((item.get("template") for item in value if _is_default(item)), None)
        if value is not None and not isinstance(value, str):
            raise self._refuse("chat_template", "a template")
        return value

    def special_tokens(self) -> list[str]:
        """Those that transformers leaves out of decoded text, whatever tokenizer.json says of them."""
        tokens = [self.token(key) for key in _SPECIAL_KEYS]
        for source in (self.config, self.special):
            extra = source.get("additional_special_tokens") or []
            for item in extra if isinstance(extra, list) else []:
                tokens.append(item.get("content") if isinstance(item, dict) else item)
        return [token for token in tokens if isinstance(token, str) and token]

    def added_tokens(self) -> list[tuple[int, AddedToken]]:
        """By id."""
        entries = self.config.get("added_tokens_decoder") or {}
        if not isinstance(entries, dict):
            raise self._refuse("added_tokens_decoder", "an object")
        return sorted((self._added(key, entry) for key, entry in entries.items()), key=lambda added: added[0])

    def _added(self, key: str, entry: object) -> tuple[int, AddedToken]:
        match entry:
            case {"content": str(content), **rest} if key.isascii() and key.isdigit() and len(key) < 10:
                options = {name: rest.get(name) is True for name in ("lstrip", "rstrip", "single_word", "special")}
                normalized = rest.get("normalized", not options["special"]) is True
                return int(key), AddedToken(content, normalized=normalized, **options)
        raise self._refuse("added_tokens_decoder", "tokens by their ids")

    def _refuse(self, key: str, wanted: str) -> TokenizerError:
        return TokenizerError(f"{self.path} says something for {key} that is not {wanted}.")


def _is_default(item: object) -> bool:
    return isinstance(item, dict) and item.get("name") == _TEMPLATE_NAME

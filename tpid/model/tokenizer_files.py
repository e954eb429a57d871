"""The tokenizer of a directory in the layout of Hugging Face.

`tokenizer.json`, or else SentencePiece's `tokenizer.model`; beside it `tokenizer_config.json`,
`special_tokens_map.json`, `added_tokens.json`, `generation_config.json`, `config.json`, `chat_template.jinja` and
`additional_chat_templates`, each of them optional. docs/tokenizers.md says what each field does.
"""

from dataclasses import dataclass
from pathlib import Path

import tokenizers
from tokenizers import AddedToken

from tpid.errors import ModelFileError, TokenizerError
from tpid.model.jsonfile import read_json_object
from tpid.model.limits import MAX_VOCAB
from tpid.model.sentencepiece_bpe import Pieces, sentencepiece_tokenizer
from tpid.model.sentencepiece_file import SentencePieceFile, read_sentencepiece
from tpid.model.source import TokenizerFiles
from tpid.model.tokenizer_parts import TokenType, add_bos_eos, ending_ids, library_errors
from tpid.model.tokenizer_settings import MAX_CONFIG_BYTES, TokenizerSettings, read_settings, text_of
from tpid.model.weightfile import WeightFile

MAX_TOKENIZER_BYTES = 128 << 20  # that of Gemma 3, with 262 000 tokens, takes 33 MB
MAX_TEMPLATE_BYTES = 1 << 20
MAX_TEMPLATES = 64

_TEMPLATE_NAME = "default"  # of several that a model may come with


def tokenizer_files_from_directory(path: Path) -> TokenizerFiles:
    """Raises TokenizerError, and UnsupportedModelError for a `tokenizer.model` that is not BPE."""
    try:
        return _read(path)
    except ModelFileError as error:
        raise TokenizerError(error.message, hint=error.hint) from error


def _read(path: Path) -> TokenizerFiles:
    settings = read_settings(path)
    if (path / "tokenizer.json").is_file():
        read = _from_tokenizer_json(path / "tokenizer.json", settings)
    elif (path / "tokenizer.model").is_file():
        read = _from_sentencepiece(path / "tokenizer.model", settings)
    else:
        raise TokenizerError(
            f"{path} has neither a tokenizer.json nor a tokenizer.model.",
            hint="Download the model's tokenizer.json into it.",
        )
    template, about_template = _chat_template(path, settings)
    with library_errors(f"Reading the tokenizer of {path}"):
        eos = read.named.get("eos_token")
        eos_id = read.tokenizer.token_to_id(eos) if eos is not None else None
        declared = _declared_ends(path) + ([eos_id] if eos_id is not None else [])
        return TokenizerFiles(
            tokenizer_json=read.tokenizer.to_str().encode(),
            chat_template=template,
            bos_token=read.named.get("bos_token"),
            eos_token=eos,
            other_tokens={name: text for name, text in read.named.items() if name not in ("bos_token", "eos_token")},
            eos_ids=ending_ids(read.tokenizer, declared),
            notes=(*settings.notes, *read.notes, *about_template),
        )


@dataclass(frozen=True, slots=True)
class _Read:
    tokenizer: tokenizers.Tokenizer
    named: dict[str, str]  # special tokens by role
    notes: tuple[str, ...]


def _from_tokenizer_json(path: Path, settings: TokenizerSettings) -> _Read:
    data = _file_bytes(path, MAX_TOKENIZER_BYTES)
    with library_errors(f"Reading {path}"):
        tokenizer = tokenizers.Tokenizer.from_buffer(data)
        notes = _add_tokens(tokenizer, settings, path)
    # add_bos_token and add_eos_token have no say here, as in transformers: tokenizer.json says what is added.
    return _Read(tokenizer, settings.texts(), notes)


def _from_sentencepiece(path: Path, settings: TokenizerSettings) -> _Read:
    file = read_sentencepiece(_file_bytes(path, MAX_TOKENIZER_BYTES), str(path))
    tokenizer = sentencepiece_tokenizer(file.pieces, str(path))
    with library_errors(f"Reading the tokenizer beside {path}"):
        notes = _add_tokens(tokenizer, settings, path)
        named = _own_names(file) | settings.texts()
        add_bos = settings.add_bos is not False  # these models were trained with it
        _surround(
            tokenizer,
            named.get("bos_token") if add_bos else None,
            named.get("eos_token") if settings.add_eos else None,
        )
    return _Read(tokenizer, named, notes)


def _own_names(file: SentencePieceFile) -> dict[str, str]:
    """What the roles are where no settings say so."""
    ids = {"bos_token": file.bos_id, "eos_token": file.eos_id, "unk_token": _unknown_id(file.pieces)}
    return {name: file.pieces.tokens[id] for name, id in ids.items() if id is not None}


def _unknown_id(pieces: Pieces) -> int | None:
    return next((id for id, type in enumerate(pieces.types) if type == TokenType.UNKNOWN), None)


def _surround(tokenizer: tokenizers.Tokenizer, bos: str | None, eos: str | None) -> None:
    bos_id = tokenizer.token_to_id(bos) if bos is not None else None
    eos_id = tokenizer.token_to_id(eos) if eos is not None else None
    add_bos_eos(
        tokenizer,
        (bos, bos_id) if bos is not None and bos_id is not None else None,
        (eos, eos_id) if eos is not None and eos_id is not None else None,
    )


def _add_tokens(tokenizer: tokenizers.Tokenizer, settings: TokenizerSettings, path: Path) -> tuple[str, ...]:
    """What only the settings know of tokens: whole ones, their marks as special, how they take spaces.

    In the order of transformers, so that new ones get the same ids; gives notes on what does not fit.
    """
    present = tokenizer.get_added_tokens_decoder()
    listed = dict(settings.added) | ({} if settings.complete else present)
    known = {token.content for token in (*present.values(), *listed.values())}
    named: list[str | AddedToken] = []  # one text may be described in several ways: the last holds
    for role in (*settings.named.values(), *settings.extra):
        if text_of(role) not in known and role not in named:
            named.append(role)
    wanted = [token for _, token in sorted(listed.items(), key=lambda item: item[0])]
    wanted += [AddedToken(token, special=True) if isinstance(token, str) else token for token in named]
    roles = {text_of(token) for token in settings.named.values()}
    stays_special = {token.content for token in present.values() if token.special}
    for token in wanted:
        token.special = token.special or token.content in roles or token.content in stays_special
    ids_before = {token.content: tokenizer.token_to_id(token.content) for _, token in settings.added}
    if wanted:
        tokenizer.add_tokens(wanted)
    others = [(id, token.content) for id, token in settings.added if tokenizer.token_to_id(token.content) != id]
    for id, text in others:
        if ids_before[text] is None:
            raise TokenizerError(
                f"{path} gives token {text[:60]!r} the id {tokenizer.token_to_id(text)}, the settings beside it {id}.",
                hint="The files are not of one model: download them again.",
            )
    if not others:
        return ()
    id, text = others[0]
    more = f", as for {len(others) - 1} more" if len(others) > 1 else ""
    return (f"{path} gives token {text[:60]!r} the id {ids_before[text]}, which holds; beside it stands {id}{more}.",)


def _chat_template(path: Path, settings: TokenizerSettings) -> tuple[str | None, tuple[str, ...]]:
    """The template, from files of its own before those in the settings, and notes."""
    templates = _template_files(path) or settings.templates
    if templates is None or isinstance(templates, str):
        return templates, ()
    if _TEMPLATE_NAME in templates:
        return templates[_TEMPLATE_NAME], ()
    names = ", ".join(sorted(templates))[:200]
    return None, (f"{path} has chat templates ({names}), but none is called {_TEMPLATE_NAME!r}: there is no chat.",)


def _template_files(path: Path) -> dict[str, str]:
    files = sorted((path / "additional_chat_templates").glob("*.jinja"))
    if len(files) > MAX_TEMPLATES:
        raise TokenizerError(f"{path} has {len(files)} additional chat templates, more than {MAX_TEMPLATES}.")
    named = {file.stem: file for file in files} | {_TEMPLATE_NAME: path / "chat_template.jinja"}
    return {name: _text(file) for name, file in named.items() if file.is_file()}


def _text(file: Path) -> str:
    try:
        return _file_bytes(file, MAX_TEMPLATE_BYTES).decode()
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{file} is not UTF-8.") from error


def _declared_ends(path: Path) -> list[int]:
    """One id or a list of them, in generation_config.json and in config.json."""
    ids: list[int] = []
    for name in ("generation_config.json", "config.json"):
        if not (path / name).is_file():
            continue
        value = read_json_object(path / name, MAX_CONFIG_BYTES).get("eos_token_id")
        several = value if isinstance(value, list) else [value] if value is not None else []
        for id in several:
            if isinstance(id, bool) or not isinstance(id, int) or not 0 <= id < MAX_VOCAB:
                raise TokenizerError(f"{path / name} says eos_token_id = {str(value)[:60]}, which is not a token's id.")
            ids.append(id)
    return ids


def _file_bytes(path: Path, max_bytes: int) -> bytes:
    file = WeightFile(path)
    try:
        if file.size_bytes > max_bytes:
            raise TokenizerError(f"{path} has {file.size_bytes} bytes, more than the {max_bytes} it may have.")
        return file.read(0, file.size_bytes).tobytes()
    finally:
        file.close()

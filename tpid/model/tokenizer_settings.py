"""The settings beside a tokenizer in the layout of Hugging Face: special tokens, added tokens, chat templates.

Which file has the last word on what is transformers' rule; docs/tokenizers.md has it as a table.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeGuard

from tokenizers import AddedToken

from tpid.errors import TokenizerError
from tpid.model.jsonfile import read_json_object
from tpid.model.limits import MAX_VOCAB

MAX_CONFIG_BYTES = 16 << 20
MAX_ADDED_TOKENS = 1 << 14  # to add one takes the library time for each that is there; published models have 6 500

_CONFIG, _SPECIAL_MAP, _ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
_STANDARD = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_EXTRA, _FORMER_EXTRA, _BY_ID = "extra_special_tokens", "additional_special_tokens", "added_tokens_decoder"
_OPTIONS = ("lstrip", "rstrip", "single_word")
_NOT_FOLLOWED = ("split_special_tokens", "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output")

_Object = Mapping[str, object]
_Named = dict[str, str | AddedToken]


@dataclass(frozen=True, slots=True)
class TokenizerSettings:
    """`named` and `extra` hold tokens as text where no more is said of them than that they are special."""

    named: Mapping[str, str | AddedToken]  # by role, such as eos_token or image_token, in the order of new ids
    extra: tuple[str | AddedToken, ...] = ()  # special too, without a role
    added: tuple[tuple[int, AddedToken], ...] = ()  # by id
    complete: bool = False  # `added` says all there is to say, tokens of tokenizer.json included
    templates: str | Mapping[str, str] | None = None  # several have names
    add_bos: bool | None = None
    add_eos: bool | None = None
    notes: tuple[str, ...] = ()

    def texts(self) -> dict[str, str]:
        """Special tokens by role."""
        return {name: text_of(token) for name, token in self.named.items()}


def read_settings(directory: Path) -> TokenizerSettings:
    """Each file is optional. Raises TokenizerError, and ModelFileError where one is not sound JSON."""
    values = dict(_optional_object(directory / _CONFIG))
    _rename_former(values)
    where = directory / _CONFIG
    reader = _Reader(where)
    if _BY_ID in values:
        named = reader.standard(values) | reader.described(values) | reader.plain(values) | reader.listed(values)
        extra = reader.extra(values) or reader.former_extra(values)
        settings = TokenizerSettings(named, extra, reader.by_id(values), complete=True)
    else:
        beside = _optional_object(directory / _SPECIAL_MAP)
        settings = _with_older_files(directory, values, beside)
    if len(settings.named) > MAX_ADDED_TOKENS:
        raise TokenizerError(f"{where} names {len(settings.named)} tokens, more than {MAX_ADDED_TOKENS}.")
    return replace(
        settings,
        templates=reader.templates(values),
        add_bos=reader.flag(values, "add_bos_token"),
        add_eos=reader.flag(values, "add_eos_token"),
        notes=tuple(f"{where} asks for {key}, which tpid does not do." for key in _NOT_FOLLOWED if values.get(key)),
    )


def text_of(token: str | AddedToken) -> str:
    return token if isinstance(token, str) else token.content


def _with_older_files(directory: Path, config: _Object, special_map: _Object) -> TokenizerSettings:
    """Where tokenizer_config.json does not list the added tokens: special_tokens_map.json goes before it."""
    reader, map_reader = _Reader(directory / _CONFIG), _Reader(directory / _SPECIAL_MAP, special=True)
    standard = {**reader.standard(config), **map_reader.standard(special_map)}
    named = {key: standard[key] for key in _STANDARD if key in standard}
    named |= reader.described(config) | map_reader.own(special_map)
    named |= reader.plain(config) | reader.listed(config) | map_reader.listed(special_map)
    extra = () if isinstance(special_map.get(_EXTRA), dict) else reader.extra(config) + map_reader.extra(special_map)
    # A token of added_tokens.json is special by a standard role or as one of these, not by the list of former name.
    special = {text_of(token) for token in (*standard.values(), *extra)}
    added = _Reader(directory / _ADDED).added(_optional_object(directory / _ADDED), special)
    if not isinstance(special_map.get(_EXTRA, config.get(_EXTRA)), list):
        in_map = _FORMER_EXTRA in special_map
        extra = map_reader.former_extra(special_map) if in_map else reader.former_extra(config)
    return TokenizerSettings(named, extra, added)


def _rename_former(values: dict[str, object]) -> None:
    if not values.get(_EXTRA) and _FORMER_EXTRA in values:
        values[_EXTRA] = values.pop(_FORMER_EXTRA)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Fields of one file. All methods raise TokenizerError."""

    where: Path
    special: bool = False  # a token that the file describes is special

    def standard(self, values: _Object) -> _Named:
        return {key: self.token(key, values[key]) for key in _STANDARD if values.get(key)}

    def own(self, values: _Object) -> _Named:
        """Roles of a model's own, described or as text, as they follow each other."""
        both = self.described(values) | self.plain(values)
        return {key: both[key] for key, _ in _own(values) if key in both}

    def plain(self, values: _Object) -> _Named:
        """Roles of a model's own: whatever else is called a token and is text."""
        return {key: value for key, value in _own(values) if isinstance(value, str)}

    def described(self, values: _Object) -> _Named:
        return {key: self.token(key, value) for key, value in _own(values) if _is_described(value)}

    def listed(self, values: _Object) -> _Named:
        """Roles of a model's own, in an object of theirs."""
        extra = values.get(_EXTRA)
        return {key: self.token(key, value) for key, value in extra.items()} if isinstance(extra, dict) else {}

    def extra(self, values: _Object) -> tuple[str | AddedToken, ...]:
        return () if isinstance(values.get(_EXTRA), dict) else self.tokens(values, _EXTRA)

    def former_extra(self, values: _Object) -> tuple[str | AddedToken, ...]:
        return self.tokens(values, _FORMER_EXTRA)

    def tokens(self, values: _Object, key: str) -> tuple[str | AddedToken, ...]:
        items = values.get(key) or []
        if not isinstance(items, list) or len(items) > MAX_ADDED_TOKENS:
            raise self.refuse(key, f"a list of at most {MAX_ADDED_TOKENS} tokens")
        return tuple(self.token(key, item) for item in items if item)

    def by_id(self, values: _Object) -> tuple[tuple[int, AddedToken], ...]:
        entries = values.get(_BY_ID) or {}
        if not isinstance(entries, dict) or len(entries) > MAX_ADDED_TOKENS:
            raise self.refuse(_BY_ID, f"an object of at most {MAX_ADDED_TOKENS} tokens")
        added = {}
        for key, entry in entries.items():
            if not (key.isascii() and key.isdigit() and len(key) < 10 and _is_described(entry)):
                raise self.refuse(_BY_ID, "tokens by their ids")
            added[int(key)] = _described(entry, special=entry.get("special") is True)
        return tuple(sorted(added.items(), key=lambda item: item[0]))

    def added(self, values: _Object, special: set[str]) -> tuple[tuple[int, AddedToken], ...]:
        """Of added_tokens.json: ids by text."""
        if len(values) > MAX_ADDED_TOKENS:
            raise TokenizerError(f"{self.where} has {len(values)} tokens, more than {MAX_ADDED_TOKENS}.")
        added = {}
        for text, id in values.items():
            if isinstance(id, bool) or not isinstance(id, int) or not 0 <= id < MAX_VOCAB or not text:
                raise self.refuse(text[:60], "a token's id")
            is_special = text in special
            added[id] = AddedToken(text, normalized=not is_special, special=is_special)
        return tuple(sorted(added.items(), key=lambda item: item[0]))

    def token(self, key: str, value: object) -> str | AddedToken:
        if isinstance(value, str):
            return value
        if _is_described(value):
            return _described(value, special=self.special or value.get("special") is True)
        raise self.refuse(key, "a token")

    def flag(self, values: _Object, key: str) -> bool | None:
        value = values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.refuse(key, "true or false")
        return value

    def templates(self, values: _Object) -> str | dict[str, str] | None:
        """One template; or several, as an object or as a list of `{"name": …, "template": …}`."""
        value = values.get("chat_template")
        if value is None or isinstance(value, str):
            return value
        pairs: list[tuple[object, object]] = []
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):
            pairs = [(item.get("name"), item.get("template")) for item in value]
        elif isinstance(value, dict):
            pairs = list(value.items())
        templates = {name: text for name, text in pairs if isinstance(name, str) and isinstance(text, str)}
        if not templates or len(templates) != len(pairs):
            raise self.refuse("chat_template", "a template, or templates by name")
        return templates

    def refuse(self, key: str, wanted: str) -> TokenizerError:
        return TokenizerError(f"{self.where} says something for {key} that is not {wanted}.")


def _own(values: _Object) -> list[tuple[str, object]]:
    return [(key, value) for key, value in values.items() if key.endswith("_token") and key not in _STANDARD and value]


def _is_described(value: object) -> TypeGuard[dict[str, object]]:
    return isinstance(value, dict) and isinstance(value.get("content"), str) and value["content"] != ""


def _described(entry: _Object, *, special: bool) -> AddedToken:
    options = {name: entry.get(name) is True for name in _OPTIONS}
    normalized = entry.get("normalized", not special) is True
    return AddedToken(str(entry["content"]), normalized=normalized, special=special, **options)


def _optional_object(path: Path) -> _Object:
    if not path.is_file():
        return {}
    values = read_json_object(path, MAX_CONFIG_BYTES)
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError) as error:  # JSON can spell half a character
        raise TokenizerError(f"{path} has a text that is not valid Unicode, or is nested too deeply.") from error
    return values

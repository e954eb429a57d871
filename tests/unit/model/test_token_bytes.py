"""The bytes of single tokens: joined, they are the text."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as RawTokenizer

from tpid.model.token_bytes import token_bytes
from tpid.model.tokenizer import Tokenizer

TEXTS = ["hello world", "naïve 海 🙂", " two  spaces", "tab\tand\nline"]


def byte_level() -> Tokenizer:
    vocab = {letter: id for id, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    raw = RawTokenizer(models.BPE(vocab, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_tokens([AddedToken("<|end|>", special=True)])
    return Tokenizer.from_json(raw.to_str().encode())


def byte_fallback() -> Tokenizer:
    letters = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *"helowrdtina▁"]
    raw = RawTokenizer(
        models.BPE({letter: id for id, letter in enumerate(letters)}, [], unk_token="<unk>", byte_fallback=True)
    )
    settings: Any = json.loads(raw.to_str())
    settings["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    replace = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    settings["decoder"] = {"type": "Sequence", "decoders": [replace, {"type": "ByteFallback"}, {"type": "Fuse"}]}
    return Tokenizer.from_json(json.dumps(settings).encode())


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
@pytest.mark.parametrize("text", TEXTS)
def test_joined_they_are_the_text(make: Callable[[], Tokenizer], text: str) -> None:
    tokenizer = make()
    ids = tokenizer.encode(text, add_special=False)
    assert b"".join(token_bytes(tokenizer, id) for id in ids).decode() == text == tokenizer.decode(ids)


def test_special_tokens_are_spelled_and_unknown_ids_are_empty() -> None:
    tokenizer = byte_level()
    assert token_bytes(tokenizer, tokenizer.max_id) == b"<|end|>"
    assert token_bytes(tokenizer, tokenizer.max_id + 1) == b""

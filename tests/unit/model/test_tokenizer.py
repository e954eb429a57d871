import json
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from tpid.errors import RequestError, TokenizerError
from tpid.model.tokenizer import Tokenizer


def _backend() -> tokenizers.Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({token: id for id, token in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>"])
    backend.add_tokens(["<think>"])
    backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
    return backend


TOKENIZER = Tokenizer.from_json(_backend().to_str().encode())


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_comes_back(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special=True)
    assert ids[0] == 256
    assert ids[1:] == TOKENIZER.encode(text, add_special=False)
    assert TOKENIZER.decode(ids) == text.replace("<s>", "")
    assert TOKENIZER.decode(ids, skip_special=False) == "<s>" + text


def test_tokens_and_ids() -> None:
    assert TOKENIZER.vocab_size == 258
    assert TOKENIZER.token_to_id("<think>") == 257
    assert TOKENIZER.token_to_id("nothing of ours") is None
    assert TOKENIZER.id_to_token(256) == "<s>"
    assert TOKENIZER.id_to_token(258) is None
    assert TOKENIZER.is_special("<s>")
    assert not TOKENIZER.is_special("<think>")
    assert TOKENIZER.decode([65, 10**6]) == TOKENIZER.decode([65])  # ids without a token have no text


def test_settings_of_training_are_left_out() -> None:
    backend = _backend()
    backend.enable_truncation(max_length=3)
    backend.enable_padding(length=9)
    tokenizer = Tokenizer.from_json(backend.to_str().encode())
    assert tokenizer.encode("abcdef", add_special=False) == TOKENIZER.encode("abcdef", add_special=False)


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_a_lone_surrogate_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match=r"U\+D"):
        TOKENIZER.encode(text, add_special=False)


@pytest.mark.parametrize("ids", [[-1], [1 << 40]])
def test_numbers_that_are_no_ids_are_refused(ids: list[int]) -> None:
    with pytest.raises(TokenizerError, match="Decoding"):
        TOKENIZER.decode(ids)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b'{"model": {}}', b"[" * 100_000])
def test_what_is_no_tokenizer_is_refused(data: bytes) -> None:
    with pytest.raises(TokenizerError, match=r"Reading tokenizer\.json"):
        Tokenizer.from_json(data)


_SMALL = json.loads(_backend().to_str()) | {
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
    "added_tokens": [],
}
_JUNK = st.one_of(st.none(), st.integers(-1, 5), st.text(max_size=3), st.lists(st.text(max_size=2), max_size=2))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(_SMALL)), st.sampled_from(["", "type", "vocab", "merges", "single"]), _JUNK)
def test_any_change_of_a_file_gives_a_tokenizer_or_a_typed_error(part: str, key: str, junk: Any) -> None:
    changed = json.loads(json.dumps(_SMALL))
    if key and isinstance(changed[part], dict):
        changed[part][key] = junk
    else:
        changed[part] = junk
    try:
        tokenizer = Tokenizer.from_json(json.dumps(changed).encode())
        text = tokenizer.decode(tokenizer.encode("ab", add_special=True))
    except TokenizerError:
        return
    assert isinstance(text, str)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_damaged_file_gives_a_tokenizer_or_a_typed_error(data: st.DataObject) -> None:
    file = bytearray(json.dumps(_SMALL).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    try:
        tokenizer = Tokenizer.from_json(bytes(file))
    except TokenizerError:
        return
    assert tokenizer.vocab_size <= 5

"""Streamed text is that of the whole answer, and never shows half a character."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tpid.errors import TokenizerError
from tpid.model import tokenizer as tpid_tokenizer
from tpid.model.detokenizer import StreamDecoder

REPLACEMENT = "\ufffd"
SPM_PIECES = ["▁", "▁the", "the", "▁▁", "a▁b", "é", "▁<", "<0x4>", "<0x+5>", "<0xZZ>", "<0x1é>", "x" * 6]
SPELLING = bytes_to_unicode()


def _tokenizer(tokens: list[str], decoder: decoders.Decoder | None) -> tpid_tokenizer.Tokenizer:
    """With a special and a plain added token at the end, and a plain one that is not spelled in bytes."""
    backend = Tokenizer(models.BPE({token: id for id, token in enumerate(tokens)}, []))
    if decoder is not None:
        backend.decoder = decoder
    backend.add_special_tokens(["<end>"])
    backend.add_tokens([AddedToken("<tool call>", normalized=False), AddedToken("é€", normalized=False)])
    return tpid_tokenizer.Tokenizer.from_json(backend.to_str().encode())


def _byte_level() -> tpid_tokenizer.Tokenizer:
    return _tokenizer([*SPELLING.values(), "Ġthe", "Ã©", "ðŁĺ", "âĤ"], decoders.ByteLevel())


def _sentencepiece(*last: decoders.Decoder) -> tpid_tokenizer.Tokenizer:
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *last]
    return _tokenizer([f"<0x{byte:02X}>" for byte in range(256)] + SPM_PIECES, decoders.Sequence(steps))


TOKENIZERS = {
    "byte level": _byte_level(),
    "sentencepiece": _sentencepiece(decoders.Strip(" ", 1, 0)),
    "sentencepiece, two spaces": _sentencepiece(decoders.Strip(" ", 2, 0)),
    "sentencepiece, no prefix": _sentencepiece(),
    "strip each": _tokenizer(SPM_PIECES, decoders.Sequence([decoders.Metaspace("▁", "always"), decoders.Fuse()])),
    "metaspace": _tokenizer(SPM_PIECES, decoders.Metaspace("▁", "first")),
    "metaspace, no prefix": _tokenizer(SPM_PIECES, decoders.Metaspace("▁", "never")),
    "replace after": _tokenizer(SPM_PIECES, decoders.Sequence([decoders.Fuse(), decoders.Replace("▁", "__")])),
    "none": _tokenizer(SPM_PIECES, None),
}


@settings(max_examples=400, deadline=None)
@given(st.data(), st.sampled_from(sorted(TOKENIZERS)), st.booleans())
def test_streamed_text_is_that_of_the_whole(data: st.DataObject, name: str, skip_special: bool) -> None:
    tokenizer = TOKENIZERS[name]
    # Beyond the vocabulary as well: the embedding may be larger.
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 2), max_size=30))
    stream = StreamDecoder(tokenizer, skip_special)
    streamed = "".join(map(stream.push, ids)) + stream.flush()
    assert streamed == tokenizer.decode(ids, skip_special)


@pytest.mark.parametrize("name", ["byte level", "sentencepiece"])
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters=REPLACEMENT)))
@settings(deadline=None)
def test_no_replacement_for_a_character_that_comes_byte_by_byte(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    stream = StreamDecoder(tokenizer)
    emitted = ""
    for byte in text.encode():
        emitted += stream.push(_byte_id(name, byte))
        assert text.startswith(emitted)
    assert emitted + stream.flush() == (text if name == "byte level" else text.removeprefix(" "))


def _byte_id(name: str, byte: int) -> int:
    id = TOKENIZERS[name].token_to_id(SPELLING[byte] if name == "byte level" else f"<0x{byte:02X}>")
    assert id is not None
    return id


def test_each_ordinary_token_is_final_at_once() -> None:
    stream = StreamDecoder(TOKENIZERS["sentencepiece"])
    ids = [TOKENIZERS["sentencepiece"].token_to_id(token) for token in ("▁the", "▁the", "▁")]
    assert [stream.push(id) for id in ids if id is not None] == ["the", " the", " "]


def test_a_spoiled_run_of_bytes_is_replaced_as_a_whole() -> None:
    """As the library decodes it, which is why the run is held."""
    stream = StreamDecoder(TOKENIZERS["sentencepiece"])
    assert [stream.push(byte) for byte in "é".encode() + b"\xff"] == ["", "", ""]
    assert stream.flush() == REPLACEMENT * 3


@pytest.mark.parametrize(
    "decoder", [decoders.WordPiece(), decoders.CTC(), decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 0, 1)])]
)
def test_a_decoder_that_cannot_be_streamed_is_refused(decoder: decoders.Decoder) -> None:
    with pytest.raises(TokenizerError, match=r"WordPiece|CTC|Strip"):
        StreamDecoder(_tokenizer(SPM_PIECES, decoder))


def test_decoder_settings_are_those_of_the_file() -> None:
    settings_of_bytes = TOKENIZERS["byte level"].decoder_settings()
    assert settings_of_bytes is not None
    assert settings_of_bytes["type"] == "ByteLevel"
    assert TOKENIZERS["none"].decoder_settings() is None


def test_a_chain_of_replacements_cannot_take_all_memory() -> None:
    decoder = StreamDecoder(_tokenizer(["a"], decoders.Sequence([decoders.Replace("a", "a" * 10)] * 10)))
    with pytest.raises(TokenizerError, match="characters of one token"):
        decoder.push(0)

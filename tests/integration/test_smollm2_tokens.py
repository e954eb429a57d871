"""Greedy tokens of both backends equal those of transformers, which loads the same GGUF and dequantizes it itself."""

from pathlib import Path

import pytest
import torch
import transformers

from tests.ranks import Ranks, even_shares
from tpid.compute.native.library import load
from tpid.compute.native_compute import NativeCompute
from tpid.compute.select import Compute
from tpid.compute.torch_compute import TorchCompute
from tpid.engine.prompt import ChatPrompt
from tpid.engine.text import load_text_model
from tpid.pack.reader import Pack

# Another program on the cores makes this ten times slower: torch's threads wait for each other.
pytestmark = pytest.mark.timeout(1200)
N_TOKENS = 64
# The native backend's KV cache is fp16: where the two likeliest tokens are closer than this, either may come first.
CLEAR_GAP = 0.005
SYSTEM = (
    "You are a patient teacher of natural history who answers in plain words. You never use more words than "
    "are needed. When a question has several parts you answer them one after the other. When you do not know "
    "an answer you say so, and you say what one would have to look up. You avoid jargon, and where you cannot "
    "avoid it you explain it. You give examples from forests, rivers, deserts and the sea, and you like to "
    "compare animals with each other by size, age and diet. You end each answer with one question to the pupil. "
) * 3
CHATS: dict[str, list[dict[str, str]]] = {
    "question": [{"role": "user", "content": "What is the capital of France?"}],
    "long system prompt": [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": "Why do whales live so long?"},
    ],
    "multilingual": [{"role": "user", "content": "Traduis: «Où est la gare?» 日本語でも、по-русски тоже. 🚉"}],
    "code": [{"role": "user", "content": "Write a Python function that returns the n-th Fibonacci number."}],
    "short question": [{"role": "user", "content": "How do plants make food?"}],
    "second turn": [
        {"role": "user", "content": "Name three colours."},
        {"role": "assistant", "content": "Red, green and blue."},
        {"role": "user", "content": "Now write one sentence about each of them."},
    ],
}


@pytest.fixture(scope="module")
def prompts(smollm2: Pack) -> dict[str, list[int]]:
    text_model = load_text_model(smollm2)
    return {name: text_model.encode(ChatPrompt(messages)) for name, messages in CHATS.items()}


@pytest.fixture(scope="module")
def expected(smollm2_gguf: Path, prompts: dict[str, list[int]]) -> dict[str, tuple[list[int], float]]:
    """transformers' greedy continuation, not ended by any token, and the least gap between its two best logits."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        smollm2_gguf.parent, gguf_file=smollm2_gguf.name, dtype=torch.float32
    ).eval()
    result = {}
    for name, ids in prompts.items():
        inputs = torch.tensor([ids])
        output = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            do_sample=False,
            min_new_tokens=N_TOKENS,
            max_new_tokens=N_TOKENS,
            eos_token_id=-1,
            pad_token_id=0,
            output_scores=True,
            return_dict_in_generate=True,
        )
        best, second = torch.stack(output.scores).topk(2).values.unbind(-1)
        result[name] = output.sequences[0, len(ids) :].tolist(), float((best - second).min())
    return result


@pytest.mark.parametrize("world_size", [1, 3, 7])  # torch takes long; the backend of most devices follows
def test_greedy_tokens_equal_transformers(
    smollm2: Pack, prompts: dict[str, list[int]], expected: dict[str, tuple[list[int], float]], world_size: int
) -> None:
    ranks = ranks_of(smollm2, TorchCompute(1), world_size)
    for name, prompt in prompts.items():
        assert greedy(ranks, prompt) == expected[name][0], name


@pytest.mark.skipif(load() is None, reason="the native kernels are not built")
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
def test_greedy_tokens_of_the_native_backend_equal_transformers(
    smollm2: Pack, prompts: dict[str, list[int]], expected: dict[str, tuple[list[int], float]], world_size: int
) -> None:
    ranks = ranks_of(smollm2, NativeCompute(1), world_size)
    clear = [name for name, (_, gap) in expected.items() if gap >= CLEAR_GAP]
    assert len(clear) >= 5
    for name in clear:
        assert greedy(ranks, prompts[name]) == expected[name][0], name


def ranks_of(pack: Pack, compute: Compute, world_size: int) -> Ranks:
    shares = even_shares(pack, world_size)
    backends = [compute.backend(pack.spec, share, n_slots=1, context_tokens=1024, max_tokens=512) for share in shares]
    return Ranks(pack, shares, backends, compute.head(pack.spec, pack.manifest.head_geometry, pack.final_norm()))


def greedy(ranks: Ranks, prompt: list[int]) -> list[int]:
    answer: list[int] = []
    new, start = prompt, 0
    while len(answer) < N_TOKENS:
        hidden = ranks.step([(0, start, new)])
        start += len(new)
        new = [int(ranks.head_logits(hidden[-1:]).argmax())]
        answer += new
    return answer

"""Greedy tokens of both backends equal those of transformers, which loads the same GGUF and dequantizes it itself."""

from pathlib import Path

import pytest
import torch
import transformers

from tpid.compute.backend import BlockBytes
from tpid.compute.forward import forward
from tpid.compute.lockstep import run_lockstep
from tpid.compute.native.library import load
from tpid.compute.native_compute import NativeCompute
from tpid.compute.select import Compute
from tpid.compute.torch_compute import TorchCompute
from tpid.engine.text import load_text_model
from tpid.model.batch import Segment
from tpid.pack.embedding import EmbeddingRows
from tpid.pack.geometry import Block, Half, Share, UnitRange
from tpid.pack.reader import Pack, read_range

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
    return {name: text_model.encode_chat(messages) for name, messages in CHATS.items()}


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


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
def test_greedy_tokens_equal_transformers(
    smollm2: Pack, prompts: dict[str, list[int]], expected: dict[str, tuple[list[int], float]], world_size: int
) -> None:
    ranks = _Ranks(smollm2, TorchCompute(1), world_size)
    for name, prompt in prompts.items():
        assert ranks.greedy(prompt) == expected[name][0], name


@pytest.mark.skipif(load() is None, reason="the native kernels are not built")
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
def test_greedy_tokens_of_the_native_backend_equal_transformers(
    smollm2: Pack, prompts: dict[str, list[int]], expected: dict[str, tuple[list[int], float]], world_size: int
) -> None:
    ranks = _Ranks(smollm2, NativeCompute(1), world_size)
    clear = [name for name, (_, gap) in expected.items() if gap >= CLEAR_GAP]
    assert len(clear) >= 5
    for name in clear:
        assert ranks.greedy(prompts[name]) == expected[name][0], name


class _Ranks:
    def __init__(self, pack: Pack, compute: Compute, world_size: int) -> None:
        self.n_layers = pack.spec.n_layers
        self.rows = EmbeddingRows(pack)
        geometry = pack.manifest.head_geometry
        units = read_range(pack.head_range()).reshape(geometry.n_units, geometry.stride_bytes)
        self.head = compute.head(pack.spec, geometry, pack.final_norm())
        self.head_weights = self.head.prepare(units, 0)
        self.backends, self.weights = [], {}
        for rank in range(world_size):
            share = Share(*(self._part(pack, half, rank, world_size) for half in Half))
            backend = compute.backend(pack.spec, share, n_slots=1, context_tokens=1024, max_tokens=512)
            self.backends.append(backend)
            for block in pack.manifest.blocks():
                part = share.of(block.half)
                unit = pack.geometry(block)
                data = read_range(pack.block_range(block, part)).reshape(len(part), unit.stride_bytes)
                content = BlockBytes(block, unit, part.start, data, pack.vectors(block.layer))
                self.weights[rank, block] = backend.prepare(content)

    @staticmethod
    def _part(pack: Pack, half: Half, rank: int, world_size: int) -> UnitRange:
        n_units = pack.geometry(Block(0, half)).n_units
        return UnitRange(rank * n_units // world_size, (rank + 1) * n_units // world_size)

    def greedy(self, prompt: list[int]) -> list[int]:
        answer: list[int] = []
        new, start = prompt, 0
        while len(answer) < N_TOKENS:
            hidden = self.rows.gather(new)
            segments = (Segment(0, start, len(new)),)
            walks = [forward(backend, self.n_layers, hidden.copy(), segments) for backend in self.backends]
            result = run_lockstep(walks, lambda rank, block: self.weights[rank, block])[0]
            start += len(new)
            new = [int(self.head.logits(self.head_weights, result[-1:]).argmax())]
            answer += new
        return answer

"""Perplexity of a model on English text: each of our backends, and llama.cpp on the same GGUF file.

    python benchmarks/perplexity.py [--gguf FILE] [--no-llama-cpp] [--quick] [--json]
    python benchmarks/perplexity.py --random-key-biases SIZE [--biased-channels N] [--quick] [--json]

The model is SmolLM2-135M (Q4_1), or that of a GGUF file. The text is Python's own language reference, as every Python
brings it along (pydoc_data.topics). It is cut into chunks of 512 tokens that know nothing of each other, and the second
half of each is scored, as llama-perplexity does it.

With --random-key-biases the model is random, and all channels of its keys have biases up to SIZE, or only N of each
head, as published models have them. No text is likely to it; so the text is what it would write itself: behind random
tokens, each next one counts by the probability that the torch backend gives to it. An engine's perplexity is then at
least torch's, and the ratio is e to the power of its divergence.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from pydoc_data import topics

import numpy as np
from numpy.typing import NDArray

from beside_llama_cpp import DIRECTORY, files_of
from llama_cpp import BuildError, tool
from random_model import RandomSource
from tpid.compute.backend import BlockBytes
from tpid.compute.forward import forward
from tpid.compute.lockstep import run_lockstep
from tpid.compute.native_compute import NativeCompute
from tpid.compute.select import Compute
from tpid.compute.torch_compute import TorchCompute
from tpid.engine.text import load_text_model
from tpid.errors import TpidError
from tpid.model.batch import Segment
from tpid.model.gguf.source import GgufSource
from tpid.model.spec import Architecture, LayerSpec, ModelSpec, Rope
from tpid.model.weights import Format
from tpid.pack.embedding import EmbeddingRows
from tpid.pack.geometry import Block, Half, Share, UnitRange
from tpid.pack.reader import Pack, read_range
from tpid.pack.writer import import_pack

CHUNK_TOKENS = 512
FIRST_SCORED = CHUNK_TOKENS // 2
CHUNKS, QUICK_CHUNKS = 34, 4
THREADS = 1
RANDOM = ModelSpec(
    Architecture.QWEN2, hidden_size=512, n_layers=4, n_heads=8, n_kv_heads=2, head_dim=64, ffn_size=1536,
    vocab_size=4096, context_tokens=CHUNK_TOKENS, norm_eps=1e-6,
    pattern=(LayerSpec(Rope(1e6), qkv_bias=True),), tied_head=False,
)  # fmt: skip

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Score:
    engine: str
    perplexity: float
    of_torch: float  # ratio
    of_llama_cpp: float | None


class Model:
    """A whole pack on one backend."""

    def __init__(self, pack: Pack, compute: Compute) -> None:
        share = Share(*(UnitRange(0, pack.geometry(Block(0, half)).n_units) for half in Half))
        self._n_layers = pack.spec.n_layers
        self._rows = EmbeddingRows(pack)
        self._backend = compute.backend(
            pack.spec, share, n_slots=1, context_tokens=CHUNK_TOKENS, max_tokens=CHUNK_TOKENS
        )
        self._weights = {}
        for block in pack.manifest.blocks():
            geometry = pack.geometry(block)
            units = read_range(pack.block_range(block, share.of(block.half)))
            content = BlockBytes(block, geometry, 0, units.reshape(geometry.n_units, -1), pack.vectors(block.layer))
            self._weights[block] = self._backend.prepare(content)
        geometry = pack.manifest.head_geometry
        units = read_range(pack.head_range()).reshape(geometry.n_units, geometry.stride_bytes)
        self._head = compute.head(pack.spec, geometry, pack.final_norm())
        self._head_weights = self._head.prepare(units, 0)

    def log_probabilities(self, ids: Sequence[int]) -> F64:
        """[n, vocabulary] of all tokens at each place behind the first half of the chunk `ids`, given those before."""
        walk = forward(self._backend, self._n_layers, self._rows.gather(ids), (Segment(0, 0, len(ids)),))
        (hidden,) = run_lockstep([walk], lambda _, block: self._weights[block])
        logits = self._head.logits(self._head_weights, hidden[FIRST_SCORED:-1]).astype(np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        return logits


def perplexity(model: Model, ids: Sequence[int], n_chunks: int) -> float:
    scores: list[float] = []
    for chunk in _chunks(ids, n_chunks):
        found = model.log_probabilities(chunk)
        scores += list(found[np.arange(len(found)), chunk[FIRST_SCORED + 1 :]])
    return float(np.exp(-np.mean(scores)))


def perplexity_of_own_text(model: Model, ids: Sequence[int], expected: Sequence[F64]) -> float:
    """`expected`: the log probabilities, chunk by chunk, of the model that writes the text."""
    pairs = zip(_chunks(ids, len(expected)), expected, strict=True)
    scores = [(np.exp(writes) * model.log_probabilities(chunk)).sum(axis=-1) for chunk, writes in pairs]
    return float(np.exp(-np.mean(scores)))


def _chunks(ids: Sequence[int], n_chunks: int) -> Iterator[Sequence[int]]:
    for start in range(0, n_chunks * CHUNK_TOKENS, CHUNK_TOKENS):
        yield ids[start : start + CHUNK_TOKENS]


def llama_cpp_perplexity(gguf: str, text: str, n_chunks: int) -> float:
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        command = [str(tool("llama-perplexity")), "-m", gguf, "-f", file.name, "-t", str(THREADS)]
        command += ["-c", str(CHUNK_TOKENS), "--chunks", str(n_chunks)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"PPL = ([0-9.]+)", done.stdout + done.stderr)
    if found is None:
        raise RuntimeError(f"llama-perplexity failed: {(done.stderr.strip() or 'no reason given').splitlines()[-1]}")
    return float(found[1])


def computes() -> Mapping[str, Compute]:
    return {
        "torch": TorchCompute(THREADS),
        "native, 16-bit activations": NativeCompute(THREADS, 16),
        "native, 8-bit activations": NativeCompute(THREADS, 8),
        "native, int8 cache": NativeCompute(THREADS, 16, "int8"),
    }


def measure(gguf: Path | None, n_chunks: int, *, beside_llama_cpp: bool) -> list[Score]:
    """Of the model in `gguf`, of SmolLM2 by default."""
    with tempfile.TemporaryDirectory(dir=DIRECTORY) as temporary:
        if gguf is None:
            gguf, directory = files_of("smollm2-135m", "Q4_1")
        else:
            directory = Path(temporary) / "pack"
            with GgufSource(gguf) as source:
                import_pack(source, directory)
        return _measure_text(gguf, Pack(directory), n_chunks, beside_llama_cpp=beside_llama_cpp)


def _measure_text(gguf: Path, pack: Pack, n_chunks: int, *, beside_llama_cpp: bool) -> list[Score]:
    text = "\n".join(topics.topics[name] for name in sorted(topics.topics))
    ids = load_text_model(pack).tokenizer.encode(text, add_special=False)
    if len(ids) < n_chunks * CHUNK_TOKENS:
        raise SystemExit(f"The text has {len(ids)} tokens, {n_chunks * CHUNK_TOKENS} are needed.")
    found = {name: perplexity(Model(pack, compute), ids, n_chunks) for name, compute in computes().items()}
    if beside_llama_cpp:
        found["llama.cpp"] = llama_cpp_perplexity(str(gguf), text, n_chunks)
    return _scores(found)


def measure_random(key_bias: float, n_biased: int | None, n_chunks: int) -> list[Score]:
    with tempfile.TemporaryDirectory(dir=DIRECTORY) as temporary:
        source = RandomSource(RANDOM, Format.F16, key_bias=key_bias, n_biased=n_biased)
        pack = import_pack(source, Path(temporary) / "pack")
        ids = np.random.default_rng(1).integers(0, RANDOM.vocab_size, n_chunks * CHUNK_TOKENS).tolist()
        torch = Model(pack, TorchCompute(THREADS))
        expected = [torch.log_probabilities(chunk) for chunk in _chunks(ids, n_chunks)]
        found = {
            name: perplexity_of_own_text(Model(pack, compute), ids, expected) for name, compute in computes().items()
        }
    return _scores(found)


def _scores(found: Mapping[str, float]) -> list[Score]:
    theirs = found.get("llama.cpp")
    return [Score(name, value, value / found["torch"], theirs and value / theirs) for name, value in found.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_CHUNKS} chunks")
    models = parser.add_mutually_exclusive_group()
    models.add_argument("--gguf", type=Path, help="another model than SmolLM2-135M")
    models.add_argument("--random-key-biases", type=float, metavar="SIZE", help="a random model instead")
    parser.add_argument("--biased-channels", type=int, metavar="N", help="of each head of the random model's keys")
    parser.add_argument("--no-llama-cpp", action="store_true", help="our backends alone: nothing is built")
    arguments = parser.parse_args()
    n_chunks = QUICK_CHUNKS if arguments.quick else CHUNKS
    DIRECTORY.mkdir(exist_ok=True)
    try:
        if arguments.random_key_biases is not None:
            scores = measure_random(arguments.random_key_biases, arguments.biased_channels, n_chunks)
        else:
            scores = measure(arguments.gguf, n_chunks, beside_llama_cpp=not arguments.no_llama_cpp)
    except (BuildError, TpidError, RuntimeError) as error:
        sys.exit(str(error))
    if arguments.json:
        print(json.dumps([asdict(score) for score in scores], indent=2))
        return
    print(f"{n_chunks * (CHUNK_TOKENS - FIRST_SCORED - 1)} tokens scored")
    print(f"{'engine':<28} {'perplexity':>10} {'/ torch':>9} {'/ llama.cpp':>11}")
    for score in scores:
        theirs = "–" if score.of_llama_cpp is None else f"{score.of_llama_cpp:.5f}"
        print(f"{score.engine:<28} {score.perplexity:>10.4f} {score.of_torch:>9.5f} {theirs:>11}")


if __name__ == "__main__":
    main()

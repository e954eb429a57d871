"""Perplexity of SmolLM2-135M on English text: each of our backends, and llama.cpp on the same GGUF file.

    python benchmarks/perplexity.py [--quick] [--json]

The text is Python's own language reference, as every Python brings it along (pydoc_data.topics). It is cut into chunks
of 512 tokens that know nothing of each other, and the second half of each is scored, as llama-perplexity does it.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pydoc_data import topics

import numpy as np

from beside_llama_cpp import files_of
from llama_cpp import BuildError, tool
from tpid.compute.backend import BlockBytes
from tpid.compute.forward import forward
from tpid.compute.lockstep import run_lockstep
from tpid.compute.native_compute import NativeCompute
from tpid.compute.select import Compute
from tpid.compute.torch_compute import TorchCompute
from tpid.engine.text import load_text_model
from tpid.model.batch import Segment
from tpid.pack.embedding import EmbeddingRows
from tpid.pack.geometry import Block, Half, Share, UnitRange
from tpid.pack.reader import Pack, read_range

CHUNK_TOKENS = 512
FIRST_SCORED = CHUNK_TOKENS // 2
CHUNKS, QUICK_CHUNKS = 34, 4
THREADS = 1


@dataclass(frozen=True, slots=True)
class Score:
    engine: str
    perplexity: float
    of_torch: float  # ratio
    of_llama_cpp: float


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

    def log_probabilities(self, ids: Sequence[int]) -> list[float]:
        """Of the tokens behind the first half of the chunk `ids`, each given all before it."""
        walk = forward(self._backend, self._n_layers, self._rows.gather(ids), (Segment(0, 0, len(ids)),))
        (hidden,) = run_lockstep([walk], lambda _, block: self._weights[block])
        logits = self._head.logits(self._head_weights, hidden[FIRST_SCORED:-1]).astype(np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        chosen = logits[np.arange(len(logits)), ids[FIRST_SCORED + 1 :]]
        return list(chosen - np.log(np.exp(logits).sum(axis=-1)))


def perplexity(model: Model, ids: Sequence[int], n_chunks: int) -> float:
    scores: list[float] = []
    for start in range(0, n_chunks * CHUNK_TOKENS, CHUNK_TOKENS):
        scores += model.log_probabilities(ids[start : start + CHUNK_TOKENS])
    return float(np.exp(-np.mean(scores)))


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


def measure(n_chunks: int) -> list[Score]:
    gguf, directory = files_of("smollm2-135m", "Q4_1")
    pack = Pack(directory)
    text = "\n".join(topics.topics[name] for name in sorted(topics.topics))
    ids = load_text_model(pack).tokenizer.encode(text, add_special=False)
    if len(ids) < n_chunks * CHUNK_TOKENS:
        raise SystemExit(f"The text has {len(ids)} tokens, {n_chunks * CHUNK_TOKENS} are needed.")
    computes: dict[str, Compute] = {
        "torch": TorchCompute(THREADS),
        "native, 16-bit activations": NativeCompute(THREADS, 16),
        "native, 8-bit activations": NativeCompute(THREADS, 8),
        "native, int8 cache": NativeCompute(THREADS, 16, "int8"),
    }
    found = {name: perplexity(Model(pack, compute), ids, n_chunks) for name, compute in computes.items()}
    found["llama.cpp"] = llama_cpp_perplexity(str(gguf), text, n_chunks)
    return [Score(name, value, value / found["torch"], value / found["llama.cpp"]) for name, value in found.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_CHUNKS} chunks")
    arguments = parser.parse_args()
    n_chunks = QUICK_CHUNKS if arguments.quick else CHUNKS
    try:
        scores = measure(n_chunks)
    except (BuildError, RuntimeError) as error:
        sys.exit(str(error))
    if arguments.json:
        print(json.dumps([asdict(score) for score in scores], indent=2))
        return
    print(f"{n_chunks * (CHUNK_TOKENS - FIRST_SCORED - 1)} tokens scored")
    print(f"{'engine':<28} {'perplexity':>10} {'/ torch':>9} {'/ llama.cpp':>11}")
    for score in scores:
        print(f"{score.engine:<28} {score.perplexity:>10.4f} {score.of_torch:>9.5f} {score.of_llama_cpp:>11.5f}")


if __name__ == "__main__":
    main()

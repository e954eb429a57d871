"""An import takes less memory than one layer plus 500 MB, however large the model."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from tpid.model.huggingface import NAMES
from tpid.model.inventory import layer_matrix_shapes, matrix_shapes, vector_shapes
from tpid.model.spec import Architecture, LayerSpec, ModelSpec, Rope
from tpid.model.tensorfile import build_header

LIMIT_BYTES = 500 * 10**6
CHUNK_WEIGHTS = 8 << 20
SPEC = ModelSpec(
    architecture=Architecture.LLAMA,
    hidden_size=2048,
    n_layers=2,
    n_heads=16,
    n_kv_heads=4,
    head_dim=128,
    ffn_size=8192,
    vocab_size=64_000,
    context_tokens=4096,
    norm_eps=1e-5,
    pattern=(LayerSpec(Rope(10000.0)),),
    tied_head=True,
)


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 MB of f16, written in pieces."""
    directory = tmp_path_factory.mktemp("wide")
    config = {
        "model_type": "llama",
        "hidden_size": SPEC.hidden_size,
        "num_hidden_layers": SPEC.n_layers,
        "num_attention_heads": SPEC.n_heads,
        "num_key_value_heads": SPEC.n_kv_heads,
        "head_dim": SPEC.head_dim,
        "intermediate_size": SPEC.ffn_size,
        "vocab_size": SPEC.vocab_size,
        "max_position_embeddings": SPEC.context_tokens,
        "rms_norm_eps": SPEC.norm_eps,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "eos_token_id": 1,
    }
    (directory / "config.json").write_text(json.dumps(config))
    model = tokenizers.models.BPE(vocab={"a": 0, "b": 1}, merges=[])
    (directory / "tokenizer.json").write_text(tokenizers.Tokenizer(model).to_str())
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "b"}))

    shapes = matrix_shapes(SPEC) | vector_shapes(SPEC)
    noise = np.random.default_rng(1).normal(size=CHUNK_WEIGHTS).astype(np.float16)
    with (directory / "model.safetensors").open("wb") as file:
        file.write(build_header([(NAMES.of(name), "F16", shape) for name, shape in shapes.items()]))
        for shape in shapes.values():
            left = int(np.prod(shape))
            while left:
                n_weights = min(left, CHUNK_WEIGHTS)
                file.write(noise[:n_weights].data)
                left -= n_weights
    return directory


# Runs a command and prints its peak. A process of its own: the kernel counts what a child had before exec, and that
# is all of its parent's memory.
_MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


def peak_bytes(*arguments: str) -> int:
    """Of the import command, as the kernel counts it."""
    command = [sys.executable, "-m", "tpid.pack.import_command", *arguments]
    result = subprocess.run([sys.executable, "-c", _MEASURE, *command], stdout=subprocess.PIPE, check=True, timeout=120)
    return int(result.stdout)


@pytest.mark.parametrize("format", ["f16", "w4"])
def test_peak_memory_is_below_a_layer_and_500_mb(wide_model: Path, tmp_path: Path, format: str) -> None:
    layer_bytes = 2 * sum(rows * columns for rows, columns in layer_matrix_shapes(SPEC).values())
    assert layer_bytes > 10**8
    peak = peak_bytes("--path", str(wide_model), "--target", str(tmp_path / "pack"), "--format", format)
    assert peak < layer_bytes + LIMIT_BYTES

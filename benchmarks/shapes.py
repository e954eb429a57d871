"""Models by their published shapes: the numbers of their config.json, without a single weight."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tpid.model.huggingface_config import read_spec
from tpid.model.spec import ModelSpec


def _llama(hidden_ffn: tuple[int, int], layers: int, heads: tuple[int, int], vocab: int, **more: Any) -> dict[str, Any]:
    """`heads` are those of queries, and of keys and values."""
    return {
        "model_type": "llama",
        "hidden_size": hidden_ffn[0],
        "intermediate_size": hidden_ffn[1],
        "num_hidden_layers": layers,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "vocab_size": vocab,
        "max_position_embeddings": 4096,
        "rope_theta": 10_000.0,
        "rms_norm_eps": 1e-5,
        **more,
    }


def _llama3(hidden_ffn: tuple[int, int], layers: int, heads: tuple[int, int], **more: Any) -> dict[str, Any]:
    more = {"max_position_embeddings": 131_072, **more}
    return _llama(hidden_ffn, layers, heads, 128_256, rope_theta=500_000.0, **more)


def _scaled(factor: float) -> Mapping[str, Any]:
    """Llama 3.1's way to a longer context."""
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


# As published on Hugging Face.
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "smollm2-135m": _llama(
        (576, 1536), 30, (9, 3), 49_152, max_position_embeddings=8192, rope_theta=100_000.0, tie_word_embeddings=True
    ),
    "tinyllama-1.1b": _llama((2048, 5632), 22, (32, 4), 32_000, max_position_embeddings=2048),
    "llama-3.2-1b": _llama3((2048, 8192), 16, (32, 8), tie_word_embeddings=True, rope_scaling=_scaled(32)),
    "llama-3.2-3b": _llama3((3072, 8192), 28, (24, 8), tie_word_embeddings=True, rope_scaling=_scaled(32)),
    "llama-2-7b": _llama((4096, 11_008), 32, (32, 32), 32_000),
    "llama-3-8b": _llama3((4096, 14_336), 32, (32, 8), max_position_embeddings=8192),
    "llama-2-13b": _llama((5120, 13_824), 40, (40, 40), 32_000),
    "yi-34b": _llama((7168, 20_480), 60, (56, 8), 64_000, rope_theta=5_000_000.0),
    "llama-2-70b": _llama((8192, 28_672), 80, (64, 8), 32_000),
    "llama-3.1-70b": _llama3((8192, 28_672), 80, (64, 8), rope_scaling=_scaled(8)),
}


def spec_of(shape: str, layers: int | None = None) -> ModelSpec:
    """Of a name in `SHAPES`, or of the config.json at a path; cut to `layers` where they are given.

    Raises ModelFileError, UnsupportedModelError, or OSError where there is no such file.
    """
    config = SHAPES[shape] if shape in SHAPES else json.loads(Path(shape).read_bytes())
    spec = read_spec(config, shape)
    return spec if layers is None else replace(spec, n_layers=min(layers, spec.n_layers))


def name_of(shape: str) -> str:
    """What a pack of that shape is called: the name itself, or that of the directory of its config.json."""
    return shape if shape in SHAPES else Path(shape).resolve().parent.name.lower()

"""Every family from both kinds of files: a GGUF file of a model gives what its Hugging Face directory gives.

What the directories give is held against transformers where models are computed.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tpid.model.families import FAMILIES
from tpid.model.gguf.source import GgufSource
from tpid.model.huggingface import HuggingFaceSource
from tpid.model.inventory import matrix_shapes, vector_shapes
from tpid.model.spec import Architecture

Make = Callable[..., Any]

NO_TOKENS = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}  # the defaults lie beyond the vocabulary
SHORT, LONG = ([1.0 + i / 4 for i in range(6)], [1.0 + i for i in range(6)])
# Of each family: settings of the model, and the metadata that a GGUF file of it has for them.
MODELS: dict[Architecture, tuple[dict[str, Any], dict[str, Any]]] = {
    Architecture.LLAMA: (
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}, "max_position_embeddings": 64},
        {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64},
    ),
    Architecture.QWEN2: ({}, {}),
    Architecture.QWEN3: ({}, {}),
    Architecture.GEMMA2: (
        {"sliding_window": 7, "query_pre_attn_scalar": 32, "final_logit_softcapping": 20.0, **NO_TOKENS},
        {"attention.sliding_window": 7, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 20.0},
    ),
    Architecture.GEMMA3: (
        {
            "num_hidden_layers": 7,
            "sliding_window": 7,
            "query_pre_attn_scalar": 32,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
            **NO_TOKENS,
        },
        {"attention.sliding_window": 7, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0},
    ),
    Architecture.PHI3: (
        {
            "head_dim": 16,
            "sliding_window": 9,
            "original_max_position_embeddings": 16,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.75,
                "attention_factor": 1.25,
                "short_factor": SHORT,
                "long_factor": LONG,
            },
            **NO_TOKENS,
        },
        {
            "attention.sliding_window": 9,
            "rope.dimension_count": 12,
            "rope.scaling.attn_factor": 1.25,
            "rope.scaling.original_context_length": 16,
        },
    ),
    Architecture.SMOLLM3: ({"num_hidden_layers": 5, **NO_TOKENS}, {}),
    Architecture.GRANITE: (
        {
            "attention_multiplier": 0.25,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.5,
            "logits_scaling": 8.0,
        },
        {"attention.scale": 0.25, "embedding_scale": 12.0, "residual_scale": 0.5, "logit_scale": 8.0},
    ),
    Architecture.GLM4: (NO_TOKENS, {"rope.dimension_count": 16}),
}


def test_every_family_is_tried() -> None:
    assert MODELS.keys() == {name for name, family in FAMILIES.items() if family.gguf_types}
    assert FAMILIES.keys() == set(Architecture)


@pytest.mark.parametrize("architecture", MODELS)
def test_both_files_of_a_model_give_the_same(
    architecture: Architecture, tiny_model: Make, write_gguf: Make, tmp_path: Path
) -> None:
    settings, metadata = MODELS[architecture]
    model = tiny_model(architecture, **settings)
    model.save_pretrained(tmp_path / "directory")
    extra = {}
    if architecture is Architecture.PHI3:
        extra = {
            "rope_factors_short.weight": np.array(SHORT, np.float32),
            "rope_factors_long.weight": np.array(LONG, np.float32),
        }
    path = write_gguf(model, metadata={f"{architecture}.{key}": value for key, value in metadata.items()}, extra=extra)
    with HuggingFaceSource(tmp_path / "directory") as published, GgufSource(path) as source:
        assert replace(source.spec, norm_eps=published.spec.norm_eps) == published.spec
        assert source.spec.norm_eps == pytest.approx(published.spec.norm_eps)
        for name, (rows, *_) in matrix_shapes(source.spec).items():
            found, expected = (each.matrix(name, 1, rows).dequantize() for each in (source, published))
            np.testing.assert_array_equal(found, expected, err_msg=name)
        for name in vector_shapes(source.spec):
            np.testing.assert_array_equal(source.vector(name), published.vector(name), err_msg=name)

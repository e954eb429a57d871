"""Every architecture as a small random model, what transformers makes of it, and the ways to feed it tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from tpid.model.weights import F32

N_TOKENS = 24
F16_TOLERANCE = 2e-3  # f16 weights meet fp32 activations: only the native backend's fp16 KV cache rounds
INT8_CACHE_TOLERANCE = 4e-2  # keys and values of one int8, as activations of one
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN_SCALING = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 4.0,
}
LONGROPE_SCALING = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.1, 1.3, 1.5, 1.9, 2.3],
    "long_factor": [1.0, 1.5, 2.5, 4.0, 8.0, 16.0],
}
LINEAR_SCALING = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
ODD_TOKENS = {
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}  # the defaults lie beyond the vocabulary
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama2": ("llama", {"tie_word_embeddings": False, "num_attention_heads": 3, "num_key_value_heads": 3}),
    "llama3": ("llama", {"tie_word_embeddings": False, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}),
    "llama3.1": ("llama", {"tie_word_embeddings": False, "rope_parameters": LLAMA3_SCALING}),
    "llama3.2": ("llama", {"tie_word_embeddings": True, "rope_parameters": LLAMA3_SCALING}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-linear-rope": ("llama", {"rope_parameters": LINEAR_SCALING}),
    "smollm2": ("llama", {"tie_word_embeddings": True, "hidden_size": 144, "num_attention_heads": 9}),
    "odd sizes": ("llama", {"hidden_size": 100, "head_dim": 20, "num_attention_heads": 10, "num_key_value_heads": 5}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral-window": ("mistral", {"sliding_window": 7}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2-window": ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen3": ("qwen3", {"tie_word_embeddings": False, "head_dim": 32}),
    "llama-yarn": ("llama", {"rope_parameters": YARN_SCALING}),
    "qwen2-yarn": ("qwen2", {"rope_parameters": YARN_SCALING}),
    "gemma2": ("gemma2", {"sliding_window": 7, "query_pre_attn_scalar": 20, **ODD_TOKENS}),
    "gemma3": ("gemma3", {"sliding_window": 7, "query_pre_attn_scalar": 20, "layer_types": MIXED, **ODD_TOKENS}),
    "phi3-short": (
        "phi3",
        {"original_max_position_embeddings": 128, "rope_parameters": LONGROPE_SCALING, **ODD_TOKENS},
    ),
    "phi3-long": ("phi3", {"original_max_position_embeddings": 8, "rope_parameters": LONGROPE_SCALING, **ODD_TOKENS}),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0, 1], **ODD_TOKENS}),
    "granite": (
        "granite",
        {
            "attention_multiplier": 0.3,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.4,
            "logits_scaling": 5.0,
            "tie_word_embeddings": True,
        },
    ),
    "glm4": ("glm4", {"tie_word_embeddings": False, **ODD_TOKENS}),
}
WAYS: dict[str, list[int]] = {
    "prefill at once": [N_TOKENS],
    "prefill in chunks": [7, 5, 12],
    "decode": [4] + [1] * (N_TOKENS - 4),
    "verify several tokens": [8, 1, 4, 1, 4, 6],
}


def judge(architecture: str, random_model: Callable[..., Path]) -> tuple[Path, list[int], F32]:
    """A random model, N_TOKENS ids, and their logits in fp32 by transformers, [N_TOKENS, vocab]."""
    kind, config = ARCHITECTURES[architecture]
    directory = random_model(kind, **config)
    return directory, *judge_directory(directory, N_TOKENS)


def judge_directory(directory: Path, n_tokens: int) -> tuple[list[int], F32]:
    """Random ids, and their logits in fp32 by transformers, [n_tokens, vocab]."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()  # other ways to attend leave out what Gemma 2 does to scores
    ids = torch.randint(0, 600, (1, n_tokens), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        logits: F32 = model(ids).logits[0].numpy()
    return ids[0].tolist(), logits


def relative_error(logits: F32, expected: F32) -> float:
    return float(np.abs(logits - expected).max() / np.abs(expected).max())

"""Tiny random models by transformers, and GGUF files of them by the gguf package: the outside judges of our sources."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,  # not hidden_size / num_attention_heads
    "vocab_size": 70,
    "max_position_embeddings": 256,
}
_CLASSES = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
    "gemma2": (transformers.Gemma2Config, transformers.Gemma2ForCausalLM),
    "gemma3": (transformers.Gemma3TextConfig, transformers.Gemma3ForCausalLM),
    "phi3": (transformers.Phi3Config, transformers.Phi3ForCausalLM),
    "smollm3": (transformers.SmolLM3Config, transformers.SmolLM3ForCausalLM),
    "granite": (transformers.GraniteConfig, transformers.GraniteForCausalLM),
    "glm4": (transformers.Glm4Config, transformers.Glm4ForCausalLM),
}
_IN_LAYER = {
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "o": "self_attn.o_proj.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
    "attn_norm": "input_layernorm.weight",
    "ffn_norm": "post_attention_layernorm.weight",
    "q_bias": "self_attn.q_proj.bias",
    "k_bias": "self_attn.k_proj.bias",
    "v_bias": "self_attn.v_proj.bias",
    "o_bias": "self_attn.o_proj.bias",
    "gate_bias": "mlp.gate_proj.bias",
    "up_bias": "mlp.up_proj.bias",
    "down_bias": "mlp.down_proj.bias",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
}
_GLOBAL = {"embed": "model.embed_tokens.weight", "head": "lm_head.weight", "final_norm": "model.norm.weight"}

Model = Any  # transformers' models are not typed
State = dict[str, np.ndarray]


@pytest.fixture
def tiny_model() -> Callable[..., Model]:
    return _tiny_model


def _tiny_model(kind: str, **overrides: Any) -> Model:
    """All parameters are random and fit fp16 exactly, norms and biases included."""
    config_class, model_class = _CLASSES[kind]
    model = model_class(config_class(**(SIZES | overrides)))
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).half().float()
    return model


@pytest.fixture
def named_state() -> Callable[[Model], State]:
    return _named_state


def _named_state(model: Model) -> State:
    """The model's state by the names of tpid.model.source, fp32."""
    state = model.state_dict()
    names = dict(_GLOBAL)
    for layer in range(model.config.num_hidden_layers):
        names |= {f"layers.{layer}.{kind}": f"model.layers.{layer}.{name}" for kind, name in _IN_LAYER.items()}
    if model.config.tie_word_embeddings:
        del names["head"]
    named = {name: state[published].float().numpy() for name, published in names.items() if published in state}
    assert len(named) == len(state) - model.config.tie_word_embeddings
    return named


@pytest.fixture
def write_gguf(tmp_path: Path) -> Callable[..., Path]:
    """`_write_gguf` into `name` in the test's own directory."""

    def write(model: Model, name: str = "a.gguf", **options: Any) -> Path:
        return _write_gguf(tmp_path / name, model, **options)

    return write


_GGUF_TYPES = {"mistral": "llama", "gemma3_text": "gemma3"}
_INTERLEAVED = ("llama", "smollm3", "granite")  # whose Q and K llama.cpp's converter brings into its own order


def _write_gguf(
    path: Path,
    model: Model,
    *,
    metadata: Mapping[str, int | float | str | bool] | None = None,
    types: Mapping[str, gguf.GGMLQuantizationType] | None = None,
    extra: Mapping[str, np.ndarray] | None = None,
    without: tuple[str, ...] = (),
    split_max_tensors: int = 0,
) -> Path:
    """A GGUF file as llama.cpp's converter writes it.

    `types` gives a tensor's type by a part of its name, F32 by default; `metadata` and `extra` tensors are added.
    """
    config = model.config
    arch = _GGUF_TYPES.get(config.model_type, config.model_type)
    writer = gguf.GGUFWriter(path, arch, split_max_tensors=split_max_tensors)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters.get("full_attention", config.rope_parameters)["rope_theta"])
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    adders = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in (metadata or {}).items():
        adders[type(value)](key, value)
    for name, values in (_gguf_state(model, arch) | dict(extra or {})).items():
        if name in without:
            continue
        wanted = next((t for part, t in (types or {}).items() if part in name), gguf.GGMLQuantizationType.F32)
        writer.add_tensor(name, gguf.quants.quantize(values, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _gguf_state(model: Model, arch: str) -> State:
    arch_enum = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    name_map = gguf.get_tensor_name_map(arch_enum, model.config.num_hidden_layers)
    result = {}
    for published, tensor in model.state_dict().items():
        if published == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        values = tensor.float().numpy()
        if arch.startswith("gemma") and "norm" in published:
            values = values + 1
        if arch in _INTERLEAVED and ("q_proj" in published or "k_proj" in published):
            config = model.config
            values = _interleave(
                values, config.num_attention_heads if "q_proj" in published else config.num_key_value_heads
            )
        result[name_map.get_name(published, try_suffixes=(".weight", ".bias"))] = values
    return result


def _interleave(values: np.ndarray, n_heads: int) -> np.ndarray:
    """What llama.cpp's converter does to the rows of Q and K of this architecture."""
    halves = values.reshape(n_heads, 2, values.shape[0] // n_heads // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))

"""Parameters are counted as the models' makers count them."""

from dataclasses import replace

import pytest

from tpid.model.spec import Architecture, LayerSpec, ModelSpec, Rope

ROPE = Rope(500000.0)
LLAMA_32_1B = ModelSpec(
    architecture=Architecture.LLAMA,
    hidden_size=2048,
    n_layers=16,
    n_heads=32,
    n_kv_heads=8,
    head_dim=64,
    ffn_size=8192,
    vocab_size=128256,
    context_tokens=131072,
    norm_eps=1e-5,
    pattern=(LayerSpec(ROPE),),
    tied_head=True,
)
TINYLLAMA = replace(LLAMA_32_1B, n_layers=22, n_kv_heads=4, ffn_size=5632, vocab_size=32000, tied_head=False)
QWEN25_05B = replace(
    LLAMA_32_1B,
    hidden_size=896,
    n_layers=24,
    n_heads=14,
    n_kv_heads=2,
    ffn_size=4864,
    vocab_size=151936,
    pattern=(LayerSpec(ROPE, qkv_bias=True),),
)
QWEN3_06B = replace(
    LLAMA_32_1B,
    hidden_size=1024,
    n_layers=28,
    n_heads=16,
    head_dim=128,
    ffn_size=3072,
    vocab_size=151936,
    pattern=(LayerSpec(ROPE, qk_norm=True),),
)


@pytest.mark.parametrize(
    ("spec", "n_parameters"),
    [
        (LLAMA_32_1B, 1_235_814_400),
        (TINYLLAMA, 1_100_048_384),
        (QWEN25_05B, 494_032_768),
        (QWEN3_06B, 596_049_920),
    ],
    ids=["Llama 3.2 1B", "TinyLlama", "Qwen2.5 0.5B", "Qwen3 0.6B"],
)
def test_parameters(spec: ModelSpec, n_parameters: int) -> None:
    assert spec.n_parameters == n_parameters

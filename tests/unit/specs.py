"""Specs of published models."""

from tpid.model.spec import Architecture, LayerSpec, ModelSpec, Rope

SMOLLM2 = ModelSpec(
    architecture=Architecture.LLAMA,
    hidden_size=576,
    n_layers=30,
    n_heads=9,
    n_kv_heads=3,
    head_dim=64,
    ffn_size=1536,
    vocab_size=49152,
    context_tokens=8192,
    norm_eps=1e-5,
    pattern=(LayerSpec(Rope(100000.0)),),
    tied_head=True,
)

"""Phi-3, Phi-4-mini: fused projections, RoPE over a part of each head, long contexts by factors of their own."""

from tpid.model.families.config import Config
from tpid.model.families.family import Family, Features
from tpid.model.families.metadata import Metadata
from tpid.model.spec import Architecture, LayerSpec


def _from_config(config: Config) -> Features:
    window = config.window() if config.fields.has("sliding_window") else None
    return Features((LayerSpec(config.rope(), window, gate=config.gate()),))


def _from_gguf(gguf: Metadata) -> Features:
    return Features((LayerSpec(gguf.rope(), gguf.window()),))


FAMILY = Family(
    Architecture.PHI3,
    "Phi-3, Phi-4",
    model_types=("phi3",),
    gguf_types=("phi3",),
    from_config=_from_config,
    from_gguf=_from_gguf,
    config_defaults={"rms_norm_eps": 1e-5, "original_max_position_embeddings": 4096},
    config_names={
        **dict.fromkeys(("q", "k", "v"), "self_attn.qkv_proj.weight"),
        **dict.fromkeys(("gate", "up"), "mlp.gate_up_proj.weight"),
    },
    gguf_names={
        **dict.fromkeys(("q", "k", "v"), "attn_qkv.weight"),
        **dict.fromkeys(("gate", "up"), "ffn_up.weight"),
    },
    partial_rotary=True,
)

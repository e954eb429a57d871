"""GLM-4: norms on both sides of each half, RoPE over pairs of half of each head, fused gate and up."""

from tpid.model.families.config import Config
from tpid.model.families.family import Family, Features, RowOrder
from tpid.model.families.metadata import Metadata
from tpid.model.spec import Architecture, LayerSpec, Norms


def _from_config(config: Config) -> Features:
    bias = config.fields.flag("attention_bias", True)
    return Features((LayerSpec(config.rope(), norms=Norms.SANDWICH, qkv_bias=bias, gate=config.gate()),))


def _from_gguf(gguf: Metadata) -> Features:
    return Features((LayerSpec(gguf.rope(), norms=Norms.SANDWICH, qkv_bias=gguf.qkv_bias),))


FAMILY = Family(
    Architecture.GLM4,
    "GLM-4",
    model_types=("glm4",),
    gguf_types=("glm4",),
    from_config=_from_config,
    from_gguf=_from_gguf,
    config_defaults={
        "num_key_value_heads": 2,
        "head_dim": 128,
        "partial_rotary_factor": 0.5,
        "rms_norm_eps": 1.5625e-7,
    },
    config_names={
        "attn_output_norm": "post_self_attn_layernorm.weight",
        "ffn_output_norm": "post_mlp_layernorm.weight",
        **dict.fromkeys(("gate", "up"), "mlp.gate_up_proj.weight"),
    },
    gguf_names=dict.fromkeys(("gate", "up"), "ffn_up.weight"),
    config_order=RowOrder.PAIRS,
    gguf_order=RowOrder.PAIRS,
    partial_rotary=True,
)

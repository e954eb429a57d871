"""Qwen3: a norm over each head of Q and K."""

from tpid.model.families.config import Config
from tpid.model.families.family import Family, Features
from tpid.model.families.metadata import Metadata
from tpid.model.families.qwen import windows
from tpid.model.spec import Architecture, LayerSpec


def _from_config(config: Config) -> Features:
    bias, rope, gate = config.fields.flag("attention_bias", False), config.rope(), config.gate()
    return Features(
        tuple(
            LayerSpec(rope, window, qk_norm=True, qkv_bias=bias, o_bias=bias, gate=gate) for window in windows(config)
        )
    )


def _from_gguf(gguf: Metadata) -> Features:
    layer = LayerSpec(
        gguf.rope(),
        gguf.window(),
        qk_norm=True,
        qkv_bias=gguf.qkv_bias,
        o_bias=gguf.o_bias,
        ffn_bias=gguf.ffn_bias,
    )
    return Features((layer,))


FAMILY = Family(
    Architecture.QWEN3,
    "Qwen3",
    model_types=("qwen3",),
    gguf_types=("qwen3",),
    from_config=_from_config,
    from_gguf=_from_gguf,
    config_defaults={"head_dim": 128},
)

"""Qwen2 and Qwen2.5: biases on Q, K and V."""

from tpid.model.families.config import Config
from tpid.model.families.family import Family, Features
from tpid.model.families.metadata import Metadata
from tpid.model.families.qwen import windows
from tpid.model.spec import Architecture, LayerSpec


def _from_config(config: Config) -> Features:
    rope, gate = config.rope(), config.gate()
    return Features(tuple(LayerSpec(rope, window, qkv_bias=True, gate=gate) for window in windows(config)))


def _from_gguf(gguf: Metadata) -> Features:
    layer = LayerSpec(gguf.rope(), gguf.window(), qkv_bias=gguf.qkv_bias, o_bias=gguf.o_bias, ffn_bias=gguf.ffn_bias)
    return Features((layer,))


FAMILY = Family(
    Architecture.QWEN2,
    "Qwen2, Qwen2.5",
    model_types=("qwen2",),
    gguf_types=("qwen2",),
    from_config=_from_config,
    from_gguf=_from_gguf,
)

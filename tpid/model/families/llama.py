"""Llama 2, 3, 3.1, 3.2, SmolLM2, TinyLlama; in GGUF files Mistral too, whose tensors and whose block are the same."""

from tpid.model.families.config import Config
from tpid.model.families.family import Family, Features, RowOrder
from tpid.model.families.metadata import Metadata
from tpid.model.spec import Architecture, LayerSpec


def _from_config(config: Config) -> Features:
    bias = config.fields.flag("attention_bias", False)
    layer = LayerSpec(
        config.rope(),
        qkv_bias=bias,
        o_bias=bias,
        ffn_bias=config.fields.flag("mlp_bias", False),
        gate=config.gate(),
    )
    return Features((layer,))


def _from_gguf(gguf: Metadata) -> Features:
    layer = LayerSpec(gguf.rope(), gguf.window(), qkv_bias=gguf.qkv_bias, o_bias=gguf.o_bias, ffn_bias=gguf.ffn_bias)
    return Features((layer,))


FAMILY = Family(
    Architecture.LLAMA,
    "Llama 2 to 3.2, SmolLM2",
    model_types=("llama",),
    gguf_types=("llama",),
    from_config=_from_config,
    from_gguf=_from_gguf,
    gguf_order=RowOrder.PAIRS,  # llama.cpp's converter interleaves the halves of each head for its own RoPE
)

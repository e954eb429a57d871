"""Granite 3 and 4, the dense ones: Llama's block with four scales."""

from dataclasses import replace

from tpid.model.families import llama
from tpid.model.families.config import Config
from tpid.model.families.family import Family, Features, RowOrder
from tpid.model.families.metadata import Metadata
from tpid.model.spec import Architecture


def _from_config(config: Config) -> Features:
    (layer,) = llama.FAMILY.from_config(config).layers
    return Features(
        (
            replace(
                layer,
                attention_scale=config.scale("attention_multiplier"),
                residual_scale=config.scale("residual_multiplier"),
            ),
        ),
        embedding_scale=config.scale("embedding_multiplier"),
        logit_scale=1 / config.scale("logits_scaling"),
    )


def _from_gguf(gguf: Metadata) -> Features:
    (layer,) = llama.FAMILY.from_gguf(gguf).layers
    attention = gguf.scale("attention.scale", gguf.head_dim**-0.5)
    return Features(
        (replace(layer, attention_scale=attention, residual_scale=gguf.scale("residual_scale")),),
        embedding_scale=gguf.scale("embedding_scale"),
        logit_scale=1 / gguf.scale("logit_scale"),
    )


FAMILY = Family(
    Architecture.GRANITE,
    "Granite",
    model_types=("granite",),
    gguf_types=("granite",),
    from_config=_from_config,
    from_gguf=_from_gguf,
    gguf_order=RowOrder.PAIRS,
    gguf_keys=frozenset({"attention.scale", "residual_scale", "embedding_scale", "logit_scale"}),
)

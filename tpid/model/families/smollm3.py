"""SmolLM3: Llama's block, without RoPE in every fourth layer."""

from tpid.errors import ModelFileError
from tpid.model import limits
from tpid.model.families.config import FULL, SLIDING, Config
from tpid.model.families.family import Family, Features, RowOrder
from tpid.model.families.metadata import Metadata
from tpid.model.spec import Architecture, LayerSpec

_INTERVAL = 4


def _from_config(config: Config) -> Features:
    fields, rope, turns = config.fields, config.rope(), _turns(config)
    window = config.window() if fields.flag("use_sliding_window", False) and fields.has("sliding_window") else None
    kinds = config.kinds([FULL if window is None or has_rope else SLIDING for has_rope in turns])
    bias = fields.flag("attention_bias", False)
    layers = tuple(
        LayerSpec(
            rope if has_rope else None,
            window if kind == SLIDING else None,
            qkv_bias=bias,
            o_bias=bias,
            ffn_bias=fields.flag("mlp_bias", False),
            gate=config.gate(),
        )
        for has_rope, kind in zip(turns, kinds, strict=True)
    )
    return Features(layers)


def _turns(config: Config) -> list[bool]:
    """Whether a layer has RoPE. The field's name says the opposite of what its ones mean."""
    listed = config.fields.raw("no_rope_layers")
    if listed is None:
        interval = config.fields.size("no_rope_layer_interval", limits.MAX_LAYERS, _INTERVAL)
        return [bool((layer + 1) % interval) for layer in range(config.n_layers)]
    if not isinstance(listed, list) or len(listed) != config.n_layers or any(value not in (0, 1) for value in listed):
        raise ModelFileError(f"{config.fields.where} says no_rope_layers that are not {config.n_layers} times 0 or 1.")
    return [bool(value) for value in listed]


def _from_gguf(gguf: Metadata) -> Features:
    return Features(
        tuple(
            LayerSpec(
                gguf.rope() if (layer + 1) % _INTERVAL else None,
                qkv_bias=gguf.qkv_bias,
                o_bias=gguf.o_bias,
                ffn_bias=gguf.ffn_bias,
            )
            for layer in range(gguf.n_layers)
        )
    )


FAMILY = Family(
    Architecture.SMOLLM3,
    "SmolLM3",
    model_types=("smollm3",),
    gguf_types=("smollm3",),
    from_config=_from_config,
    from_gguf=_from_gguf,
    config_defaults={"num_key_value_heads": 4, "tie_word_embeddings": True, "rope_theta": 2e6},
    gguf_order=RowOrder.PAIRS,
)

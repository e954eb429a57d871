"""Gemma 2: every other layer has a window, scores and logits are capped, norms sit on both sides of each half."""

from tpid.model.families.config import FULL, SLIDING, Config
from tpid.model.families.family import Family, Features
from tpid.model.families.metadata import Metadata
from tpid.model.spec import Architecture, Gate, LayerSpec, Norms

CONFIG_DEFAULTS = {
    "num_key_value_heads": 4,
    "head_dim": 256,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
}
CONFIG_NAMES = {
    "attn_output_norm": "post_attention_layernorm.weight",
    "ffn_norm": "pre_feedforward_layernorm.weight",
    "ffn_output_norm": "post_feedforward_layernorm.weight",
}
LAYERS_OF_27B = 46  # whose scores are scaled otherwise; its GGUF files do not say so


def _from_config(config: Config) -> Features:
    kinds = config.kinds([FULL if layer % 2 else SLIDING for layer in range(config.n_layers)])
    window, rope, bias = config.window(), config.rope(), config.fields.flag("attention_bias", False)
    layers = tuple(
        LayerSpec(
            rope,
            window if kind == SLIDING else None,
            attention_scale=config.scale("query_pre_attn_scalar") ** -0.5,
            attention_softcap=config.softcap("attn_logit_softcapping"),
            norms=Norms.SANDWICH,
            qkv_bias=bias,
            o_bias=bias,
            gate=config.gate("hidden_activation", "gelu_pytorch_tanh"),
        )
        for kind in kinds
    )
    softcap = config.softcap("final_logit_softcapping")
    return Features(layers, embedding_scale=config.hidden_size**0.5, logit_softcap=softcap)


def _from_gguf(gguf: Metadata) -> Features:
    scaled_by = gguf.hidden_size / gguf.n_heads if gguf.n_layers == LAYERS_OF_27B else gguf.head_dim
    layers = tuple(
        LayerSpec(
            gguf.rope(),
            None if layer % 2 else gguf.window(4096),
            attention_scale=scaled_by**-0.5,
            attention_softcap=gguf.softcap("attn_logit_softcapping", 50.0),
            norms=Norms.SANDWICH,
            gate=Gate.GELU_TANH,
        )
        for layer in range(gguf.n_layers)
    )
    softcap = gguf.softcap("final_logit_softcapping", 30.0)
    return Features(layers, embedding_scale=gguf.hidden_size**0.5, logit_softcap=softcap)


FAMILY = Family(
    Architecture.GEMMA2,
    "Gemma 2",
    model_types=("gemma2",),
    gguf_types=("gemma2",),
    from_config=_from_config,
    from_gguf=_from_gguf,
    config_defaults=CONFIG_DEFAULTS,
    config_names=CONFIG_NAMES,
    norm_offset=1.0,
)

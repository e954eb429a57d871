"""Gemma 3, its text: five layers with a window and a RoPE of their own, then one that sees everything."""

from tpid.errors import ModelFileError
from tpid.model import limits
from tpid.model.families.config import FULL, SLIDING, Config
from tpid.model.families.family import Family, Features
from tpid.model.families.gemma2 import CONFIG_DEFAULTS, CONFIG_NAMES
from tpid.model.families.metadata import Metadata
from tpid.model.spec import Architecture, Gate, LayerSpec, Norms, Rope

_PATTERN = 6  # the last of so many layers sees everything
_THETA, _LOCAL_THETA = 1e6, 1e4
_LAYERS_OF_27B = 62  # whose scores are scaled otherwise; its GGUF files do not say so


def _from_config(config: Config) -> Features:
    ropes, window, bias = _ropes(config), config.window(), config.fields.flag("attention_bias", False)
    pattern = config.fields.size("sliding_window_pattern", limits.MAX_LAYERS, _PATTERN)
    kinds = config.kinds([SLIDING if (layer + 1) % pattern else FULL for layer in range(config.n_layers)])
    layers = tuple(
        LayerSpec(
            ropes[kind],
            window if kind == SLIDING else None,
            attention_scale=config.scale("query_pre_attn_scalar") ** -0.5,
            attention_softcap=config.softcap("attn_logit_softcapping"),
            norms=Norms.SANDWICH,
            qk_norm=True,
            qkv_bias=bias,
            o_bias=bias,
            gate=config.gate("hidden_activation", "gelu_pytorch_tanh"),
        )
        for kind in kinds
    )
    softcap = config.softcap("final_logit_softcapping")
    return Features(layers, embedding_scale=config.hidden_size**0.5, logit_softcap=softcap)


def _ropes(config: Config) -> dict[str, Rope]:
    """By kind of layer; older files describe the one of FULL at the top, and of the other only its base."""
    parameters = config.fields.raw("rope_parameters") or {}
    scaling = config.fields.raw("rope_scaling") or {}
    if not isinstance(parameters, dict) or not isinstance(scaling, dict):
        raise ModelFileError(f"{config.fields.where} says rope parameters that are not an object.")
    full = parameters.get(FULL) or (parameters if SLIDING not in parameters else {})
    local = parameters.get(SLIDING) or {}
    if not isinstance(full, dict) or not isinstance(local, dict):
        raise ModelFileError(f"{config.fields.where} says rope parameters that are not an object.")
    theta = config.fields.number("rope_local_base_freq", limits.MIN_ROPE_THETA, limits.MAX_ROPE_THETA, _LOCAL_THETA)
    return {FULL: config.rope({**full, **scaling}, _THETA), SLIDING: config.rope({"rope_theta": theta, **local})}


def _from_gguf(gguf: Metadata) -> Features:
    scaled_by = gguf.hidden_size / gguf.n_heads if gguf.n_layers == _LAYERS_OF_27B else gguf.head_dim
    local = Rope(gguf.fields.number("rope.freq_base_swa", limits.MIN_ROPE_THETA, limits.MAX_ROPE_THETA, _LOCAL_THETA))
    pattern = gguf.fields.size("attention.sliding_window_pattern", limits.MAX_LAYERS, _PATTERN)
    sliding = [bool((layer + 1) % pattern) for layer in range(gguf.n_layers)]
    layers = tuple(
        LayerSpec(
            local if has_window else gguf.rope(_THETA),
            gguf.window() if has_window else None,
            attention_scale=scaled_by**-0.5,
            norms=Norms.SANDWICH,
            qk_norm=True,
            gate=Gate.GELU_TANH,
        )
        for has_window in sliding
    )
    softcap = gguf.softcap("final_logit_softcapping")
    return Features(layers, embedding_scale=gguf.hidden_size**0.5, logit_softcap=softcap)


FAMILY = Family(
    Architecture.GEMMA3,
    "Gemma 3",
    model_types=("gemma3_text",),
    gguf_types=("gemma3",),
    from_config=_from_config,
    from_gguf=_from_gguf,
    config_defaults={**CONFIG_DEFAULTS, "final_logit_softcapping": None, "attn_logit_softcapping": None},
    config_names=CONFIG_NAMES,
    gguf_keys=frozenset({"attention.sliding_window_pattern"}),
    norm_offset=1.0,
)

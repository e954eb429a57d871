"""Families that do not run, by what they have that is not there: so that a refusal names it."""

from collections.abc import Mapping

_EXPERTS = "a mixture of experts"
_MLA = "multi-head latent attention (MLA)"
_DELTA = "layers of linear attention (Gated DeltaNet)"
_RECURRENT = "recurrent layers (state spaces or convolutions)"
_WHOLE_NORM = "norms of Q and K over the width of all heads together"
_PER_LAYER = "embeddings of each layer"

# By model_type of config.json and general.architecture of GGUF.
_TYPES: Mapping[str, tuple[str, ...]] = {
    _EXPERTS: (
        *("mixtral", "qwen2_moe", "qwen2moe", "qwen3_moe", "qwen3moe", "olmoe", "gpt_oss", "gpt-oss", "phimoe", "dbrx"),
        *("granitemoe", "glm4_moe", "glm4moe", "grok", "ernie4_5_moe", "ernie4_5-moe", "hunyuan-moe", "dots1"),
        *("hunyuan_v1_moe", "minimax-m2", "minimax_m2", "bailingmoe", "bailingmoe2", "afmoe", "arctic", "llada-moe"),
    ),
    "a mixture of experts and attention in chunks (Llama 4)": ("llama4", "llama4_text"),
    _DELTA: (
        *(
            "qwen3_next",
            "qwen3next",
            "qwen3_5",
            "qwen3_5_text",
            "qwen3_5_moe",
            "qwen3_5_moe_text",
            "qwen35",
            "qwen35moe",
        ),
        *("kimi-linear", "kimi_linear"),
    ),
    _MLA: (
        *("deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek2", "deepseek2-ocr", "minicpm3", "kimi_k2", "plm"),
        *("glm-dsa", "glm_moe_dsa", "glm4_moe_lite", "mistral4", "longcat_flash"),
    ),
    _RECURRENT: (
        *("mamba", "mamba2", "falcon_mamba", "jamba", "falcon_h1", "falcon-h1", "granitehybrid", "granitemoehybrid"),
        *("nemotron_h", "nemotron_h_moe", "lfm2", "lfm2_moe", "lfm2moe", "bamba", "zamba", "zamba2", "recurrent_gemma"),
        *("rwkv", "rwkv6", "rwkv7", "rwkv6qwen2", "arwkv7", "plamo2"),
    ),
    _WHOLE_NORM: ("olmo2", "olmo3"),
    _PER_LAYER: ("gemma3n", "gemma3n_text", "gemma4", "gemma4_text"),
}
MISSING: Mapping[str, str] = {name: feature for feature, names in _TYPES.items() for name in names}

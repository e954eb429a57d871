"""Mistral: Llama's block with a sliding window; Ministral has it in some layers."""

from tpid.model.families import llama
from tpid.model.families.config import FULL, SLIDING, Config
from tpid.model.families.family import Family, Features
from tpid.model.spec import Architecture, LayerSpec


def _from_config(config: Config) -> Features:
    window, rope, gate = config.window(), config.rope(), config.gate()
    kinds = config.kinds([SLIDING if window else FULL] * config.n_layers)
    return Features(tuple(LayerSpec(rope, window if kind == SLIDING else None, gate=gate) for kind in kinds))


FAMILY = Family(
    Architecture.MISTRAL,
    "Mistral",
    model_types=("mistral",),
    gguf_types=(),  # such files say that they are Llama's
    from_config=_from_config,
    from_gguf=llama.FAMILY.from_gguf,
)

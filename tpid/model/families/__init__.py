"""The families of models that run, one file each. `docs/adding-a-model.md` shows how to add one."""

from collections.abc import Mapping

from tpid.errors import UnsupportedModelError
from tpid.model.families import gemma2, gemma3, glm4, granite, llama, mistral, phi3, qwen2, qwen3, smollm3
from tpid.model.families.family import Family
from tpid.model.families.missing import MISSING
from tpid.model.spec import Architecture

FAMILIES: Mapping[Architecture, Family] = {
    module.FAMILY.architecture: module.FAMILY
    for module in (llama, mistral, qwen2, qwen3, gemma2, gemma3, phi3, smollm3, granite, glm4)
}
BY_MODEL_TYPE: Mapping[str, Family] = {name: family for family in FAMILIES.values() for name in family.model_types}
BY_GGUF_TYPE: Mapping[str, Family] = {name: family for family in FAMILIES.values() for name in family.gguf_types}


def unknown_family(where: str, what: str, name: str, hint: str) -> UnsupportedModelError:
    """`what` is "type" or "architecture", as the file calls it."""
    if name in MISSING:
        return UnsupportedModelError(
            f"{where} is of {what} {name!r}, which has {MISSING[name]}: tpid cannot run that.", hint=hint
        )
    known = ", ".join(family.title for family in FAMILIES.values())
    return UnsupportedModelError(f"{where} is of {what} {name[:60]!r}; tpid runs {known}.", hint=hint)

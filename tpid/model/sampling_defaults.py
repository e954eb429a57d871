"""How a model's publisher samples from it: what counts where a request does not say it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

from tpid.errors import RequestError
from tpid.model.sampling import SamplingParams

MAX_BYTES: Final = 4096  # of the file in a pack

_GGUF: Final = {  # keys of general.sampling, by llama.cpp
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """As SamplingParams has them; None where the publisher says nothing."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    def fill(self, params: SamplingParams) -> SamplingParams:
        """`params` with these values where nobody has said one."""
        mine: dict[str, Any] = {
            name: value for name, value in asdict(self).items() if value is not None and name in params.unsaid
        }
        return replace(params, **mine) if mine else params

    def as_json(self) -> dict[str, float]:
        return {name: value for name, value in asdict(self).items() if value is not None}


def of_generation_config(config: Mapping[str, object]) -> SamplingDefaults:
    """From a model's generation_config.json. Without sampling (`do_sample` false) it is greedy."""
    defaults = _sound(config)
    return replace(defaults, temperature=0.0) if config.get("do_sample") is False else defaults


def of_gguf(metadata: Mapping[str, object]) -> SamplingDefaults:
    return _sound({ours: metadata.get(f"general.sampling.{key}") for key, ours in _GGUF.items()})


def dump(defaults: SamplingDefaults) -> bytes:
    return json.dumps(defaults.as_json(), indent=1).encode()


def load(data: bytes) -> SamplingDefaults:
    """What `dump` wrote, or somebody by hand. Anything else has no defaults."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return SamplingDefaults()
    return _sound(values) if isinstance(values, dict) else SamplingDefaults()


def _sound(values: Mapping[str, object]) -> SamplingDefaults:
    """Without those that no request could ask for either: a publisher's slip is no reason to refuse a model."""
    found: dict[str, Any] = {}
    for field in fields(SamplingDefaults):
        value: Any = values.get(field.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if field.name == "top_k" and isinstance(value, float) and value.is_integer():
            value = int(value)
        try:
            SamplingParams(**{field.name: value})
        except (RequestError, OverflowError):
            continue
        found[field.name] = value
    return SamplingDefaults(**found)

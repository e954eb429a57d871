"""Which kind of published model lies at a path?"""

from pathlib import Path

from tpid.errors import ModelFileError, UnsupportedModelError
from tpid.model.gguf.container import MAGIC
from tpid.model.gguf.parts import is_later_part
from tpid.model.gguf.source import GgufSource
from tpid.model.huggingface import CONFIG_NAME, HuggingFaceSource
from tpid.model.source import WeightSource
from tpid.model.weightfile import WeightFile


def open_source(path: Path) -> WeightSource:
    """A GGUF file, any part of a split one, a directory with one such model, or a Hugging Face directory.

    Raises ModelFileError and UnsupportedModelError.
    """
    if not path.is_dir():
        return _open_file(path)
    if (path / CONFIG_NAME).exists():
        return HuggingFaceSource(path)
    try:
        files = sorted(path.glob("*.gguf"))
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}.") from error
    models = [file for file in files if not is_later_part(file)]
    if len(models) == 1:
        return GgufSource(models[0])
    if models:
        raise UnsupportedModelError(
            f"{path} holds {len(models)} GGUF models.", hint=f"Name one of them, such as {models[0].name}."
        )
    raise UnsupportedModelError(f"{path} holds neither {CONFIG_NAME} nor a GGUF file: not a model that tpid knows.")


def _open_file(path: Path) -> WeightSource:
    file = WeightFile(path)
    try:
        start = file.read(0, min(len(MAGIC), file.size_bytes)).tobytes()
    finally:
        file.close()
    if start == MAGIC:
        return GgufSource(path)
    if path.suffix == ".safetensors":
        raise UnsupportedModelError(
            f"{path} holds weights without their {CONFIG_NAME}.", hint="Give the directory that both lie in."
        )
    raise UnsupportedModelError(
        f"{path} is not a GGUF file.", hint="tpid reads GGUF files and safetensors directories."
    )

"""Which kind of published model lies at a path?"""

from pathlib import Path

from tpid.errors import ModelFileError, UnsupportedModelError
from tpid.model.gguf.container import MAGIC
from tpid.model.gguf.parts import is_later_part
from tpid.model.gguf.source import GgufSource
from tpid.model.huggingface import CONFIG_NAME, HuggingFaceSource
from tpid.model.huggingface_files import has_weights
from tpid.model.mistaken import START_BYTES, found_instead, unknown_directory
from tpid.model.source import WeightSource
from tpid.model.weightfile import WeightFile


def open_source(path: Path) -> WeightSource:
    """A GGUF file, any part of a split one, a directory with one such model, or a Hugging Face directory.

    Raises ModelFileError and UnsupportedModelError.
    """
    if not path.is_dir():
        return _open_file(path)
    try:
        names = sorted(file.name for file in path.iterdir())
    except OSError as error:
        raise ModelFileError(
            f"{path} cannot be read: {error.strerror}.", hint="Check its permissions: the daemon must read it."
        ) from error
    models = _gguf_models(names)
    # Many publish GGUF files together with the config.json that they were made from.
    if CONFIG_NAME in names and (has_weights(names) or not models):
        return HuggingFaceSource(path)
    if len(models) == 1:
        return GgufSource(path / models[0])
    if models:
        raise UnsupportedModelError(
            f"{path} holds {len(models)} GGUF models.", hint=f"Name one of them, such as {path / models[0]}."
        )
    raise unknown_directory(path, names)


def _gguf_models(names: list[str]) -> list[str]:
    """Without later parts, and without the part of a model that sees, where there is another."""
    files = [name for name in names if name.lower().endswith(".gguf") and not is_later_part(name)]
    texts = [name for name in files if "mmproj" not in name.lower()]
    return texts or files


def _open_file(path: Path) -> WeightSource:
    with WeightFile(path) as file:
        start = file.read(0, min(START_BYTES, file.size_bytes)).tobytes()
    if start.startswith(MAGIC):
        return GgufSource(path)
    instead = found_instead(path, start)
    if instead is not None:
        raise UnsupportedModelError(f"{path} is {instead.what}.", hint=instead.hint)
    if path.suffix == ".safetensors":
        beside = (path.parent / CONFIG_NAME).exists()
        raise UnsupportedModelError(
            f"{path} holds weights without their {CONFIG_NAME}.",
            hint=f"Give the directory that it lies in: {path.parent}."
            if beside
            else "Download config.json and the tokenizer's files beside it, then give the directory.",
        )
    if path.name == CONFIG_NAME:
        raise UnsupportedModelError(f"{path} is one file of a model.", hint=f"Give its directory: {path.parent}.")
    raise UnsupportedModelError(
        f"{path} is not a GGUF file.", hint="tpid reads GGUF files and safetensors directories."
    )

"""Which files of a Hugging Face directory hold the weights, and what is missing or other than it should be."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from tpid.errors import ModelFileError, UnsupportedModelError
from tpid.model.jsonfile import read_json_object
from tpid.model.mistaken import adapter_error, pickle_error

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
MAX_INDEX_BYTES = 16 << 20  # of 250 bytes a tensor
MAX_SHARDS = 512  # a 405B model has 191
MAX_NAME_CHARS = 255  # of a file

_SHARD = re.compile(r"model-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
_SAFE = re.compile(r"[^/\0]+\.safetensors", re.DOTALL)
_NAMED_AT_MOST = 3  # files in one message


def has_weights(names: Collection[str]) -> bool:
    return WEIGHTS_NAME in names or INDEX_NAME in names or any(map(_SHARD.fullmatch, names))


def weight_names(directory: Path) -> list[str]:
    """The files that hold tensors, in the order of their names; all of them are there.

    Raises ModelFileError and UnsupportedModelError.
    """
    try:
        names = sorted(path.name for path in directory.iterdir())
    except OSError as error:
        raise ModelFileError(f"{directory} cannot be read: {error.strerror}.") from error
    if WEIGHTS_NAME in names:
        return [WEIGHTS_NAME]
    shards = _shards_of_index(directory / INDEX_NAME) if INDEX_NAME in names else _shards_by_name(names)
    if not shards:
        raise _no_weights(directory, names)
    missing = [name for name in shards if name not in names]
    if missing:
        named = ", ".join(missing[:_NAMED_AT_MOST]) + (", …" if len(missing) > _NAMED_AT_MOST else "")
        raise ModelFileError(
            f"{directory} lacks {len(missing)} of the {len(shards)} files of weights: {named}.",
            hint="Download them too.",
        )
    return shards


def _shards_of_index(index: Path) -> list[str]:
    weight_map = read_json_object(index, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFileError(f"{index} has no weight_map.")
    names = set()
    for name in weight_map.values():
        if not isinstance(name, str) or len(name) > MAX_NAME_CHARS or not _SAFE.fullmatch(name):
            raise ModelFileError(f"{index} names {str(name)[:60]!r}, which is not a safetensors file beside it.")
        names.add(name)
    if len(names) > MAX_SHARDS:
        raise ModelFileError(f"{index} names {len(names)} files, more than {MAX_SHARDS}.")
    return sorted(names)


def _shards_by_name(names: Sequence[str]) -> list[str]:
    """All that must be there if one is, as their names count them: the index says no more than the files do."""
    for match in filter(None, map(_SHARD.fullmatch, names)):
        count = int(match["count"])
        if 1 <= int(match["number"]) <= count <= MAX_SHARDS:
            return [f"model-{number + 1:05d}-of-{count:05d}.safetensors" for number in range(count)]
    return []


def _no_weights(directory: Path, names: Sequence[str]) -> UnsupportedModelError:
    if any(name.startswith("adapter_") for name in names):
        return adapter_error(directory)
    if any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        return pickle_error(directory)
    others = [name for name in names if name.endswith((".safetensors", ".npz", ".h5", ".msgpack", ".onnx"))]
    if others:
        return UnsupportedModelError(
            f"{directory} has neither {WEIGHTS_NAME} nor {INDEX_NAME}, but {others[0]}, which tpid does not read.",
            hint="Take the model as it is published for transformers, or as GGUF.",
        )
    return UnsupportedModelError(
        f"{directory} has neither {WEIGHTS_NAME} nor {INDEX_NAME}: its weights are missing.",
        hint="Download the files of weights (.safetensors) too.",
    )

"""A GGUF model on disk: one file, or the parts that llama.cpp's gguf-split made of it."""

import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tpid.errors import ModelFileError, UnsupportedModelError
from tpid.model.fields import Fields
from tpid.model.gguf.container import MAX_TENSORS, GgufContainer, GgufTensor, read_container
from tpid.model.weightfile import WeightFile

MAX_PARTS = 999

_PART_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


@dataclass(frozen=True, slots=True)
class GgufModel:
    """`metadata` is that of the first part; a tensor's file is `files[name]`."""

    metadata: Mapping[str, object]
    tensors: Mapping[str, GgufTensor]
    files: Mapping[str, WeightFile]
    parts: tuple[tuple[WeightFile, int], ...]  # each with the length of its header


def open_gguf(path: Path, stack: ExitStack) -> GgufModel:
    """Read the headers of `path` and of the other parts, if it is one of several; `stack` closes them all.

    Raises ModelFileError and UnsupportedModelError.
    """
    file, container = _open(path, stack)
    count = Fields(container.metadata, str(path)).count("split.count", 1)
    if count <= 1:
        files = dict.fromkeys(container.tensors, file)
        return GgufModel(container.metadata, container.tensors, files, ((file, container.header_bytes),))
    paths = part_paths(path, count)
    _check_there(path, paths)
    model = GgufModel({}, {}, {}, ())
    for number, part in enumerate(paths):
        part_file, part_container = (file, container) if part == path else _open(part, stack)
        _check_part(part, part_container, number, count)
        model = _joined(model, part_file, part_container)
    return model


def part_paths(path: Path, count: int) -> list[Path]:
    """All parts' paths by that of one. Raises UnsupportedModelError where the name does not follow gguf-split."""
    match = _PART_NAME.fullmatch(path.name)
    if match is None or int(match["count"]) != count or count > MAX_PARTS:
        raise UnsupportedModelError(
            f"{path} is one of {count} parts, but not named as -00001-of-{count:05d}.gguf.",
            hint="Give all parts the names that they were published under.",
        )
    return [path.with_name(f"{match['stem']}-{i + 1:05d}-of-{count:05d}.gguf") for i in range(count)]


def _check_there(path: Path, parts: list[Path]) -> None:
    missing = [part.name for part in parts if not part.exists()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelFileError(
            f"{path} is one of the {len(parts)} files of a model; it cannot be used without {missing[0]}{more}.",
            hint="Download the others into the same directory, under the names that they were published under.",
        )


def is_later_part(name: str) -> bool:
    """Is the file of this name a part of a split model, but not the first?"""
    match = _PART_NAME.fullmatch(name)
    return match is not None and int(match["number"]) > 1


def _open(path: Path, stack: ExitStack) -> tuple[WeightFile, GgufContainer]:
    file = WeightFile(path)
    stack.callback(file.close)
    return file, read_container(file)


def _check_part(path: Path, container: GgufContainer, number: int, count: int) -> None:
    fields = Fields(container.metadata, str(path))
    found = fields.count("split.no", 0), fields.count("split.count", 1)
    if found != (number, count):
        raise ModelFileError(
            f"{path} is part {found[0] + 1} of {found[1]} by its metadata, part {number + 1} of {count} by its name."
        )


def _joined(model: GgufModel, file: WeightFile, container: GgufContainer) -> GgufModel:
    """The model with one part more; of the later ones nothing is kept but where their tensors lie."""
    for name in container.tensors:
        if name in model.tensors:
            raise ModelFileError(f"{file.path} and {model.files[name].path} both hold tensor {name}.")
    tensors = {**model.tensors, **container.tensors}
    if len(tensors) > MAX_TENSORS:
        raise ModelFileError(f"{file.path} and the parts before it hold more than {MAX_TENSORS} tensors.")
    return GgufModel(
        model.metadata or container.metadata,
        tensors,
        {**model.files, **dict.fromkeys(container.tensors, file)},
        (*model.parts, (file, container.header_bytes)),
    )

"""The header of a safetensors file: reading it with suspicion, writing it so that direct I/O works.

Layout: 8 bytes little endian n, n bytes of JSON (may end in spaces), then the tensors' bytes without holes.
https://huggingface.co/docs/safetensors#format
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import BinaryIO, TypeGuard

from tpid.errors import ModelFileError, UnsupportedModelError
from tpid.model.jsonfile import parse_json_object
from tpid.model.weightfile import CUT_HINT
from tpid.size import shown_size

MAX_TENSORS = 1 << 16  # a mixture of experts has some 50 000 in all its files
MAX_DIMS = 8
MAX_NAME_CHARS = 1024
# Of 250 bytes and 16 values a tensor: reading such a header takes 200 MB at most. The format itself allows 100 MB.
MAX_HEADER_BYTES = 16 << 20
MAX_HEADER_VALUES = 16 * MAX_TENSORS

DTYPE_BYTES: Mapping[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}
_LENGTH_BYTES = 8
_METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor's bytes are start…stop of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_header(file: BinaryIO, where: str | None = None) -> dict[str, TensorEntry]:
    """The tensors of a safetensors file, in the order of their bytes; `file` must be seekable.

    `where` names it in errors, its own name by default.
    Raises ModelFileError where the file is not sound, UnsupportedModelError for dtypes of less than a byte.
    """
    where = where or str(getattr(file, "name", "the file"))
    length, file_bytes, text = _header_text(file, where)
    header = parse_json_object(text, f"The header of {where}", MAX_HEADER_VALUES)
    if len(header) > MAX_TENSORS:
        raise ModelFileError(f"{where} lists {len(header)} tensors, more than {MAX_TENSORS}.")
    data_start = _LENGTH_BYTES + length
    entries = {name: _entry(where, name, value, data_start) for name, value in header.items() if name != _METADATA}
    return _check_ranges(where, entries, data_start, file_bytes)


def _header_text(file: BinaryIO, where: str) -> tuple[int, int, bytes]:
    """The header's length, the file's, and the header. Raises ModelFileError."""
    try:
        file_bytes = file.seek(0, 2)
        file.seek(0)
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if file_bytes < _LENGTH_BYTES or _LENGTH_BYTES + length > file_bytes:
            raise ModelFileError(f"{where} ends within its header.", hint=CUT_HINT)
        if length > MAX_HEADER_BYTES:
            raise ModelFileError(
                f"{where} has a header of {shown_size(length)}, more than {shown_size(MAX_HEADER_BYTES)}."
            )
        text = file.read(length)
    except OSError as error:
        raise ModelFileError(f"{where} cannot be read: {error.strerror}.") from error
    if len(text) < length or not text.startswith(b"{"):
        raise ModelFileError(f"{where} is not a safetensors file.")
    return length, file_bytes, text


def build_header(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]],
    metadata: Mapping[str, str] | None = None,
    align: int = 4096,
) -> bytes:
    """All bytes before the first tensor's, a multiple of `align`.

    `tensors` gives (name, dtype, shape) in the order of their bytes, which follow each other without holes.
    """
    header: dict[str, object] = {} if metadata is None else {_METADATA: dict(metadata)}
    stop = 0
    for name, dtype, shape in tensors:
        if name in header or name == _METADATA:
            raise ValueError(f"tensor name {name!r} is taken")
        start, stop = stop, stop + math.prod(shape) * DTYPE_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}
    text = json.dumps(header, separators=(",", ":")).encode()
    total = -(-(_LENGTH_BYTES + len(text)) // align) * align
    length = total - _LENGTH_BYTES
    return length.to_bytes(_LENGTH_BYTES, "little") + text.ljust(length)


def _entry(where: str, name: str, value: object, data_start: int) -> TensorEntry:
    if len(name) > MAX_NAME_CHARS:
        raise ModelFileError(f"{where} has a tensor with a name of {len(name)} characters, more than {MAX_NAME_CHARS}.")
    if not isinstance(value, dict):
        raise ModelFileError(f"{where} describes tensor {name} by something that is not an object.")
    dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not isinstance(dtype, str) or not _are_sizes(shape, MAX_DIMS):
        raise ModelFileError(f"{where} gives tensor {name} no sound dtype and shape.")
    if not _are_sizes(offsets, 2) or len(offsets) != 2:
        raise ModelFileError(f"{where} gives tensor {name} no sound data_offsets.")
    if dtype not in DTYPE_BYTES:
        raise UnsupportedModelError(f"{where} stores tensor {name} as {dtype[:40]}, which tpid cannot read.")
    start, stop = offsets
    size_bytes = math.prod(shape) * DTYPE_BYTES[dtype]
    if stop - start != size_bytes:
        raise ModelFileError(
            f"{where} gives tensor {name} {stop - start} bytes, but {dtype} {tuple(shape)} takes {size_bytes}."
        )
    return TensorEntry(dtype, tuple(shape), data_start + start, data_start + stop)


def _are_sizes(value: object, max_length: int) -> TypeGuard[list[int]]:
    """A short list of whole numbers that fit 63 bits."""
    return (
        isinstance(value, list)
        and len(value) <= max_length
        and all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 1 << 63 for n in value)
    )


def _check_ranges(
    where: str, entries: dict[str, TensorEntry], data_start: int, file_bytes: int
) -> dict[str, TensorEntry]:
    """As the format asks: tensors overlap nowhere and leave no hole, and the file ends where the last one does."""
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)))
    end = data_start
    for name, entry in ordered.items():
        if entry.start != end:
            fault = "overlaps the one before it" if entry.start < end else "leaves a hole before it"
            raise ModelFileError(f"{where}: tensor {name} {fault}.")
        end = entry.stop
    if end > file_bytes:
        raise ModelFileError(f"{where} ends {shown_size(end - file_bytes)} too early.", hint=CUT_HINT)
    if end < file_bytes:
        raise ModelFileError(f"{where} has {shown_size(file_bytes - end)} after its last tensor.")
    return ordered

"""The GGUF container, versions 2 and 3, little endian: metadata, and where each tensor lies.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tpid.errors import ModelFileError, UnsupportedModelError
from tpid.model.gguf.types import OTHER_TYPES, GgmlType
from tpid.model.mistaken import piece_hint
from tpid.model.weightfile import CUT_HINT, WeightFile
from tpid.size import shown_size

MAGIC = b"GGUF"
# Reading a header takes at most 3 bytes of memory a byte and 80 an item or key: 270 MB with these limits.
MAX_HEADER_BYTES = 32 << 20  # vocabularies of 260 000 tokens take 15 MB
MAX_KEYS = 1 << 14  # published files have some 50
MAX_TENSORS = 1 << 16  # a mixture of experts has some 50 000
MAX_ARRAY_ITEMS = 1 << 21  # in all arrays together: 260 000 tokens with types, scores and merges are half of it
MAX_NESTED_ARRAYS = 1 << 12  # no published file has one: llama.cpp refuses them
MAX_ARRAY_DEPTH = 4
MAX_NAME_BYTES = 1024
MAX_DIMS = 4
MAX_ALIGNMENT = 1 << 20

_DEFAULT_ALIGNMENT = 32
_READ_BYTES = 1 << 20
_MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8  # name length, dimensions, one size, type, offset
_MIN_KEY_BYTES = 8 + 4 + 1
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS: Mapping[int, struct.Struct] = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    _BOOL: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_U32, _U64 = _SCALARS[4], _SCALARS[10]


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """`shape` is outermost first: (rows, columns). Its bytes start at `start` of the file."""

    name: str
    type: GgmlType
    shape: tuple[int, ...]
    start: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class GgufContainer:
    """Metadata values are int, float, bool, str or lists of them."""

    metadata: Mapping[str, object]
    tensors: Mapping[str, GgufTensor]
    header_bytes: int  # before the first tensor, without padding


def read_container(file: WeightFile) -> GgufContainer:
    """Raises ModelFileError where the file is not sound, UnsupportedModelError for other versions and types."""
    cursor = _Cursor(file)
    if cursor.take(4) != MAGIC:
        raise ModelFileError(f"{file.path} is not a GGUF file.")
    _check_version(file, cursor.number(_U32))
    n_tensors, n_keys = cursor.number(_U64), cursor.number(_U64)
    cursor.check_count(n_keys, _MIN_KEY_BYTES, MAX_KEYS, "metadata keys")
    cursor.check_count(n_tensors, _MIN_TENSOR_BYTES, MAX_TENSORS, "tensors")
    metadata = _read_metadata(cursor, n_keys)
    alignment = _alignment(file, metadata)
    tensors: dict[str, GgufTensor] = {}
    for _ in range(n_tensors):
        tensor = _read_tensor(cursor, alignment)
        if tensor.name in tensors:
            raise ModelFileError(f"{file.path} lists tensor {tensor.name} twice.")
        tensors[tensor.name] = tensor
    data_start = -(-cursor.position // alignment) * alignment
    placed = {name: _place(file, tensor, data_start) for name, tensor in tensors.items()}
    _check_apart(file, placed)
    return GgufContainer(MappingProxyType(metadata), MappingProxyType(placed), cursor.position)


class _Cursor:
    """Reads a header from its start on, in growing pieces."""

    def __init__(self, file: WeightFile) -> None:
        self.file = file
        self.position = 0
        self._data = bytearray(file.read(0, min(_READ_BYTES, file.size_bytes)))
        self._items_left = MAX_ARRAY_ITEMS
        self._nested_left = MAX_NESTED_ARRAYS

    def take(self, size: int) -> bytearray:
        start = self.position
        self._need(size)
        self.position = start + size
        return self._data[start : self.position]

    def number(self, layout: struct.Struct) -> int:
        value: int = layout.unpack(self.take(layout.size))[0]
        return value

    def string(self, what: str, max_bytes: int = MAX_HEADER_BYTES) -> str:
        length = self.number(_U64)
        if length > max_bytes:
            raise ModelFileError(f"{self.file.path}: {what} is {length} bytes long, more than {max_bytes}.")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise ModelFileError(f"{self.file.path}: {what} is not UTF-8.") from error

    def value(self, key: str, type: int) -> object:
        if type == _STRING:
            return self.string(key)
        if type == _ARRAY:
            return self._array(key, 1)
        return self.number(self._scalar(key, type))

    def check_count(self, count: int, item_bytes: int, maximum: int, what: str) -> None:
        """Refuse what the rest of the file cannot hold, before any of it is read."""
        if count > maximum:
            raise ModelFileError(f"{self.file.path} claims {count} {what}, more than {maximum}.")
        if count * item_bytes > self.file.size_bytes - self.position:
            raise ModelFileError(
                f"{self.file.path} claims {count} {what}, more than it has room for.", hint=_cut_hint(self.file)
            )

    def _array(self, key: str, depth: int) -> list[object]:
        if depth > MAX_ARRAY_DEPTH:
            raise ModelFileError(f"{self.file.path}: {key} nests arrays more than {MAX_ARRAY_DEPTH} deep.")
        type, count = self.number(_U32), self.number(_U64)
        item_bytes = 8 if type == _STRING else 12 if type == _ARRAY else self._scalar(key, type).size
        self.check_count(count, item_bytes, self._items_left, f"items in {key}")
        self._items_left -= count
        if type == _STRING:
            return self._strings(key, count)
        if type == _ARRAY:
            self.check_count(count, item_bytes, self._nested_left, f"arrays in {key}")
            self._nested_left -= count
            return [self._array(key, depth + 1) for _ in range(count)]
        layout = self._scalar(key, type)
        return list(struct.unpack(f"<{count}{layout.format[-1]}", self.take(count * layout.size)))

    def _strings(self, key: str, count: int) -> list[object]:
        """As `string`, but without a call for each: vocabularies and merges are some 400 000 of them."""
        strings: list[object] = []
        unpack = _U64.unpack_from
        for _ in range(count):
            start = self.position + 8
            if start > len(self._data):
                self._need(8)
            self.position = start + unpack(self._data, self.position)[0]
            if self.position > len(self._data):
                size, self.position = self.position - start, start
                self._need(size)
                self.position += size
            try:
                strings.append(self._data[start : self.position].decode())
            except UnicodeDecodeError as error:
                raise ModelFileError(f"{self.file.path}: item {len(strings)} of {key} is not UTF-8.") from error
        return strings

    def _scalar(self, key: str, type: int) -> struct.Struct:
        if type not in _SCALARS:
            raise ModelFileError(f"{self.file.path}: {key} has type {type}, which GGUF does not know.")
        return _SCALARS[type]

    def _need(self, size: int) -> None:
        """Have the next `size` bytes in memory. Raises ModelFileError."""
        end = self.position + size
        if end <= len(self._data):
            return
        if end > self.file.size_bytes:
            raise ModelFileError(f"{self.file.path} ends within its header.", hint=_cut_hint(self.file))
        if end > MAX_HEADER_BYTES:
            raise ModelFileError(f"{self.file.path} has a header of more than {shown_size(MAX_HEADER_BYTES)}.")
        wanted = min(max(end, len(self._data) + _READ_BYTES), self.file.size_bytes)
        self._data += self.file.read(len(self._data), wanted - len(self._data)).data


def _cut_hint(file: WeightFile) -> str:
    return piece_hint(file.path) or CUT_HINT


def _check_version(file: WeightFile, version: int) -> None:
    if version in (2, 3):
        return
    if version & 0xFFFF == 0 and version:
        raise UnsupportedModelError(
            f"{file.path} is a big-endian GGUF file; tpid reads little-endian ones.",
            hint="Take the usual conversion of the model, which is little-endian.",
        )
    raise UnsupportedModelError(
        f"{file.path} is of GGUF version {version}; tpid reads versions 2 and 3.",
        hint="Take a newer conversion of the model." if version < 2 else "Upgrade tpid, or take an older conversion.",
    )


def _read_metadata(cursor: _Cursor, n_keys: int) -> dict[str, object]:
    metadata: dict[str, object] = {}
    for _ in range(n_keys):
        key = cursor.string("a metadata key", MAX_NAME_BYTES)
        if key in metadata:
            raise ModelFileError(f"{cursor.file.path} has metadata key {key} twice.")
        metadata[key] = cursor.value(key, cursor.number(_U32))
    return metadata


def _alignment(file: WeightFile, metadata: Mapping[str, object]) -> int:
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise ModelFileError(
            f"{file.path}: general.alignment is {str(alignment)[:40]}, not a power of two up to {MAX_ALIGNMENT}."
        )
    return alignment


def _read_tensor(cursor: _Cursor, alignment: int) -> GgufTensor:
    """`start` is still relative to the tensors' data."""
    path = cursor.file.path
    name = cursor.string("a tensor's name", MAX_NAME_BYTES)
    n_dims = cursor.number(_U32)
    if not 1 <= n_dims <= MAX_DIMS:
        raise ModelFileError(f"{path}: tensor {name} has {n_dims} dimensions, not 1 to {MAX_DIMS}.")
    shape = tuple(cursor.number(_U64) for _ in range(n_dims))[::-1]
    type_number, start = cursor.number(_U32), cursor.number(_U64)
    try:
        type = GgmlType(type_number)
    except ValueError:
        known = OTHER_TYPES.get(type_number, f"GGML type {type_number}")
        raise UnsupportedModelError(
            f"{path} stores tensor {name} as {known}, which tpid cannot read.",
            hint="Take another quantization of the same model, such as Q4_K_M or Q8_0.",
        ) from None
    if start % alignment:
        raise ModelFileError(f"{path}: tensor {name} starts at byte {start}, not a multiple of {alignment}.")
    if shape[-1] % type.block_weights:
        raise ModelFileError(f"{path}: tensor {name} has rows of {shape[-1]}, not blocks of {type.block_weights}.")
    if 0 in shape:
        raise ModelFileError(f"{path}: tensor {name} has shape {shape}, which is empty.")
    return GgufTensor(name, type, shape, start, math.prod(shape) // type.block_weights * type.block_bytes)


def _place(file: WeightFile, tensor: GgufTensor, data_start: int) -> GgufTensor:
    start = data_start + tensor.start
    missing = start + tensor.size_bytes - file.size_bytes
    if missing > 0:
        raise ModelFileError(
            f"{file.path} ends {shown_size(missing)} before the end of tensor {tensor.name}.",
            hint=_cut_hint(file),
        )
    return GgufTensor(tensor.name, tensor.type, tensor.shape, start, tensor.size_bytes)


def _check_apart(file: WeightFile, tensors: Mapping[str, GgufTensor]) -> None:
    """Tensors that share bytes would make a pack many times as large as its file."""
    before: GgufTensor | None = None
    for tensor in sorted(tensors.values(), key=lambda tensor: tensor.start):
        if before is not None and tensor.start < before.start + before.size_bytes:
            raise ModelFileError(f"{file.path}: tensors {before.name} and {tensor.name} overlap.")
        before = tensor

import struct
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import gguf
import numpy as np
import pytest

from tpid.errors import ModelError, ModelFileError, UnsupportedModelError
from tpid.model.gguf import container
from tpid.model.gguf.container import GgufContainer, read_container
from tpid.model.gguf.types import GgmlType
from tpid.model.weightfile import WeightFile

ReadBytes = Callable[[bytes], GgufContainer]


@pytest.fixture
def read_bytes(tmp_path: Path) -> Iterator[ReadBytes]:
    def read(data: bytes) -> GgufContainer:
        path = tmp_path / "model.gguf"
        path.write_bytes(data)
        file = WeightFile(path)
        try:
            return read_container(file)
        finally:
            file.close()

    return read


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def key(name: str, type: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<I", type) + value


def tensor(name: str, dims: tuple[int, ...], type: int = 0, offset: int = 0) -> bytes:
    return string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, type, offset)


def raw_file(
    keys: tuple[bytes, ...] = (), tensors: tuple[bytes, ...] = (), version: int = 3, data_bytes: int = 4096
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(data_bytes)


def written(path: Path) -> bytes:
    """A file by the gguf package, with one of everything."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -100)
    writer.add_uint16("u16", 60_000)
    writer.add_int16("i16", -30_000)
    writer.add_uint32("u32", 4_000_000_000)
    writer.add_int32("i32", -2_000_000_000)
    writer.add_uint64("u64", 2**63)
    writer.add_int64("i64", -(2**62))
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 0.1)
    writer.add_bool("bool", True)
    writer.add_string("string", "Gruezi Welt ☃")
    writer.add_array("ints", [1, -2, 3])
    writer.add_array("floats", [0.5, -1.5])
    writer.add_array("strings", ["", "a", "ü"])
    writer.add_array("bools", [True, False])
    writer.add_tensor("matrix", np.arange(12, dtype=np.float32).reshape(3, 4))
    writer.add_tensor("half", np.arange(5, dtype=np.float16))
    q8_0 = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor("blocks", gguf.quants.quantize(np.ones((2, 64), np.float32), q8_0), raw_dtype=q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def test_reads_what_the_gguf_package_writes(tmp_path: Path, read_bytes: ReadBytes) -> None:
    data = written(tmp_path / "a.gguf")
    found = read_bytes(data)
    assert {name: value for name, value in found.metadata.items() if name != "general.architecture"} == {
        "u8": 200,
        "i8": -100,
        "u16": 60_000,
        "i16": -30_000,
        "u32": 4_000_000_000,
        "i32": -2_000_000_000,
        "u64": 2**63,
        "i64": -(2**62),
        "f32": 0.5,
        "f64": 0.1,
        "bool": True,
        "string": "Gruezi Welt ☃",
        "ints": [1, -2, 3],
        "floats": [0.5, -1.5],
        "strings": ["", "a", "ü"],
        "bools": [True, False],
    }
    tensors = found.tensors
    assert (tensors["matrix"].type, tensors["matrix"].shape) == (GgmlType.F32, (3, 4))
    assert (tensors["half"].type, tensors["half"].shape) == (GgmlType.F16, (5,))
    assert (tensors["blocks"].type, tensors["blocks"].shape) == (GgmlType.Q8_0, (2, 64))
    matrix = tensors["matrix"]
    stored = np.frombuffer(data[matrix.start : matrix.start + matrix.size_bytes], np.float32)
    np.testing.assert_array_equal(stored, np.arange(12))
    assert 0 < found.header_bytes <= min(t.start for t in tensors.values())


def test_reads_large_vocabularies(read_bytes: ReadBytes) -> None:
    tokens = [f"token {i} {'x' * (i % 50)}" for i in range(130_000)]  # crosses several reads
    packed = struct.pack("<IQ", 8, len(tokens)) + b"".join(string(token) for token in tokens)
    found = read_bytes(raw_file((key("tokens", 9, packed), key("after", 4, struct.pack("<I", 7)))))
    assert found.metadata["tokens"] == tokens
    assert found.metadata["after"] == 7


def test_reads_nested_arrays_and_version_2(read_bytes: ReadBytes) -> None:
    inner = struct.pack("<IQ2B", 0, 2, 5, 6)
    found = read_bytes(raw_file((key("nested", 9, struct.pack("<IQ", 9, 2) + inner + inner),), version=2))
    assert found.metadata["nested"] == [[5, 6], [5, 6]]


def test_honours_the_alignment(read_bytes: ReadBytes) -> None:
    keys = (key("general.alignment", 4, struct.pack("<I", 1024)),)
    found = read_bytes(raw_file(keys, (tensor("a", (4,)), tensor("b", (4,), offset=1024))))
    assert [t.start for t in found.tensors.values()] == [1024, 2048]


UNSOUND = {
    "magic": (b"GGML" + raw_file()[4:], "not a GGUF file"),
    "too many keys": (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 63), "metadata keys"),
    "too many tensors": (b"GGUF" + struct.pack("<IQQ", 3, 60_000, 0) + bytes(100), "more than it has room"),
    "long string": (raw_file((key("a", 8, struct.pack("<Q", 1 << 62)),)), "bytes long"),
    "string beyond the file": (raw_file((key("a", 8, struct.pack("<Q", 1 << 20)),)), "ends within"),
    "long array": (raw_file((key("a", 9, struct.pack("<IQ", 4, 1 << 62)),)), "items in a"),
    "long array of strings": (raw_file((key("a", 9, struct.pack("<IQ", 8, 1 << 40)),)), "items in a"),
    "array beyond the file": (raw_file((key("a", 9, struct.pack("<IQ", 10, 1 << 20)),)), "items in a"),
    "huge string in an array": (raw_file((key("a", 9, struct.pack("<IQQ", 8, 1, (1 << 64) - 1)),)), "ends within"),
    "deep arrays": (raw_file((key("a", 9, struct.pack("<IQ", 9, 1) * 5),)), "4 deep"),
    "type": (raw_file((key("a", 13, bytes(8)),)), "type 13"),
    "type in an array": (raw_file((key("a", 9, struct.pack("<IQ", 77, 0)),)), "type 77"),
    "key twice": (raw_file((key("a", 0, b"1"), key("a", 0, b"1"))), "key a twice"),
    "tensor twice": (raw_file((), (tensor("a", (4,)), tensor("a", (4,)))), "tensor a twice"),
    "no dimensions": (raw_file((), (tensor("a", ()),)), "0 dimensions"),
    "many dimensions": (raw_file((), (tensor("a", (1,) * 5),)), "5 dimensions"),
    "empty": (raw_file((), (tensor("a", (4, 0)),)), "empty"),
    "overflow": (raw_file((), (tensor("a", (1 << 62,) * 4),)), "before the end of tensor a"),
    "offset beyond the file": (raw_file((), (tensor("a", (4,), offset=1 << 63),)), "before the end of tensor a"),
    "offset not aligned": (raw_file((), (tensor("a", (4,), offset=4),)), "multiple of 32"),
    "cut block": (raw_file((), (tensor("a", (33,), type=8),)), "blocks of 32"),
    "overlap": (raw_file((), (tensor("a", (16,)), tensor("b", (4,), offset=32))), "tensors a and b overlap"),
    "same place": (raw_file((), (tensor("a", (16,), offset=64), tensor("b", (16,), offset=64))), "a and b overlap"),
    "alignment": (raw_file((key("general.alignment", 4, struct.pack("<I", 48)),)), "power of two"),
    "no alignment": (raw_file((key("general.alignment", 4, bytes(4)),)), "power of two"),
    "huge alignment": (raw_file((key("general.alignment", 4, struct.pack("<I", 1 << 31)),)), "power of two"),
    "alignment that is a word": (raw_file((key("general.alignment", 8, string("32")),)), "power of two"),
    "not UTF-8": (raw_file((key("a", 8, string(b"\xff")),)), "not UTF-8"),
    "not UTF-8 in an array": (raw_file((key("a", 9, struct.pack("<IQ", 8, 1) + string(b"\xff")),)), "not UTF-8"),
}


@pytest.mark.parametrize("case", UNSOUND)
def test_refuses_unsound_files(case: str, read_bytes: ReadBytes) -> None:
    data, message = UNSOUND[case]
    with pytest.raises(ModelFileError, match=message):
        read_bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (raw_file(version=1), "version 1"),
        (raw_file(version=4), "version 4"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (raw_file((), (tensor("a", (256,), type=15),)), "tensor a as Q8_K"),
        (raw_file((), (tensor("a", (256,), type=999),)), "GGML type 999"),
    ],
)
def test_names_what_it_cannot_read(data: bytes, message: str, read_bytes: ReadBytes) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        read_bytes(data)


def test_bounds_the_items_of_all_arrays_together(read_bytes: ReadBytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "MAX_ARRAY_ITEMS", 10)
    six = struct.pack("<IQ", 0, 6) + bytes(6)
    assert read_bytes(raw_file((key("a", 9, six),))).metadata["a"] == [0] * 6
    with pytest.raises(ModelFileError, match="6 items in b, more than 4"):
        read_bytes(raw_file((key("a", 9, six), key("b", 9, six))))


def test_bounds_the_arrays_in_arrays(read_bytes: ReadBytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "MAX_NESTED_ARRAYS", 3)
    two = struct.pack("<IQ", 9, 2) + 2 * struct.pack("<IQ", 0, 0)
    with pytest.raises(ModelFileError, match="2 arrays in b, more than 1"):
        read_bytes(raw_file((key("a", 9, two), key("b", 9, two))))


@pytest.mark.parametrize("text", ["", "abcd"])
def test_the_memory_is_bounded_by_size_and_items(text: str, read_bytes: ReadBytes) -> None:
    n_items = 60_000
    data = raw_file((key("a", 9, struct.pack("<IQ", 8, n_items) + string(text) * n_items),))
    tracemalloc.start()
    try:
        read_bytes(data)
        assert tracemalloc.get_traced_memory()[1] <= 3 * len(data) + 80 * n_items + 2 * container._READ_BYTES
    finally:
        tracemalloc.stop()


def test_bounds_the_header(read_bytes: ReadBytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "MAX_HEADER_BYTES", 3 << 20)
    keys = tuple(key(str(i), 8, string("x" * (1 << 20))) for i in range(4))
    with pytest.raises(ModelFileError, match="header of more than"):
        read_bytes(raw_file(keys))


def test_every_truncation_is_an_error(tmp_path: Path, read_bytes: ReadBytes) -> None:
    data = written(tmp_path / "a.gguf")
    end = max(t.start + t.size_bytes for t in read_bytes(data).tensors.values())
    for size in range(end):
        with pytest.raises(ModelFileError):
            read_bytes(data[:size])


def test_any_bytes_give_tensors_in_range_or_one_error(tmp_path: Path, read_bytes: ReadBytes) -> None:
    data = written(tmp_path / "a.gguf")
    header_bytes = read_bytes(data).header_bytes
    random = Random(5)
    outcomes = set()
    for _ in range(2000):
        flipped = bytearray(data)
        for _ in range(random.randint(1, 3)):
            flipped[random.randrange(header_bytes)] = random.choice((0, 1, 0x7F, 0xFF, random.randrange(256)))
        try:
            found = read_bytes(bytes(flipped))
        except ModelError as error:
            outcomes.add(type(error))
            continue
        outcomes.add(GgufContainer)
        assert all(t.start + t.size_bytes <= len(flipped) for t in found.tensors.values())
    assert outcomes == {GgufContainer, ModelFileError, UnsupportedModelError}

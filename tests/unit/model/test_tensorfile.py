import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from tpid.errors import ModelError, ModelFileError, UnsupportedModelError
from tpid.model.tensorfile import DTYPE_BYTES, TensorEntry, build_header, read_header

TENSORS = {"b": np.arange(12, dtype=np.float32).reshape(3, 4), "a": np.arange(5, dtype=np.uint8)}


def container(header: object, data: bytes = b"") -> io.BytesIO:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return io.BytesIO(len(text).to_bytes(8, "little") + text + data)


def entry(dtype: object = "U8", shape: object = (4,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_reads_what_safetensors_writes() -> None:
    raw = save(TENSORS, {"format": "np"})
    entries = read_header(io.BytesIO(raw))
    assert set(entries) == set(TENSORS)
    for name, entry in entries.items():
        stored = np.frombuffer(raw[entry.start : entry.stop], TENSORS[name].dtype).reshape(entry.shape)
        np.testing.assert_array_equal(stored, TENSORS[name])


def test_safetensors_reads_what_it_builds() -> None:
    described = [("b", "F32", (3, 4)), ("a", "U8", (5,))]
    header = build_header(described, {"made by": "a test"})
    loaded = load(header + TENSORS["b"].tobytes() + TENSORS["a"].tobytes())
    for name, values in TENSORS.items():
        np.testing.assert_array_equal(loaded[name], values)


@given(
    st.dictionaries(
        st.text(max_size=20).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(sorted(DTYPE_BYTES)), st.lists(st.integers(0, 9), max_size=4).map(tuple)),
        max_size=8,
    ),
    st.sampled_from([1, 8, 4096]),
)
def test_headers_survive_the_round_trip(described: dict[str, tuple[str, tuple[int, ...]]], align: int) -> None:
    header = build_header([(name, *kind) for name, kind in described.items()], align=align)
    assert len(header) % align == 0
    sizes = {name: math.prod(shape) * DTYPE_BYTES[dtype] for name, (dtype, shape) in described.items()}
    entries = read_header(io.BytesIO(header + bytes(sum(sizes.values()))))
    assert {name: (e.dtype, e.shape) for name, e in entries.items()} == described
    start = len(header)
    for name, size in sizes.items():
        assert (entries[name].start, entries[name].stop) == (start, start + size)
        start += size


def test_building_refuses_a_name_twice() -> None:
    with pytest.raises(ValueError, match="taken"):
        build_header([("a", "U8", (1,)), ("a", "U8", (1,))])


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        pytest.param({"a": entry(), "b": entry(offsets=(2, 6))}, bytes(6), "overlaps", id="overlap"),
        pytest.param({"a": entry(), "b": entry(offsets=(5, 9))}, bytes(9), "hole", id="hole"),
        pytest.param({"a": entry(offsets=(1, 5))}, bytes(5), "hole", id="hole-at-start"),
        pytest.param({"a": entry()}, bytes(3), "ends 1 byte too early", id="too-short"),
        pytest.param({"a": entry()}, bytes(5), "1 byte after", id="too-long"),
        pytest.param({"a": entry("F32")}, bytes(4), "takes 16", id="size"),
        pytest.param({"a": entry(offsets=(4, 0))}, bytes(4), "-4 bytes", id="backwards"),
        pytest.param({"a": entry(offsets=(-4, 0))}, bytes(4), "data_offsets", id="negative"),
        pytest.param({"a": entry(offsets=(0, 4, 8))}, bytes(8), "data_offsets", id="three-offsets"),
        pytest.param({"a": entry(offsets=None)}, bytes(4), "data_offsets", id="no-offsets"),
        pytest.param({"a": entry(shape=[2**40, 2**40])}, bytes(4), "takes", id="huge"),
        pytest.param({"a": entry(shape=[True, 4])}, bytes(4), "dtype and shape", id="bool"),
        pytest.param({"a": entry(shape=[1] * 9)}, bytes(4), "dtype and shape", id="many-dims"),
        pytest.param({"a": entry(dtype=4)}, bytes(4), "dtype and shape", id="dtype"),
        pytest.param({"a": 4}, b"", "not an object", id="no-object"),
        pytest.param(b'{"a": NaN}', b"", "not sound JSON", id="nan"),
        pytest.param(b'{"a": 1, "a": 2}', b"", "twice", id="duplicate"),
        pytest.param(b'{"a": "\xff"}', b"", "not sound JSON", id="utf-8"),
        pytest.param(b'{"a":' * 200_000, b"", "JSON", id="deep"),
        pytest.param(b'{"a": ' + b"9" * 10_000 + b"}", b"", "not sound JSON", id="digits"),
        pytest.param(b"[]", b"", "not a safetensors file", id="array"),
        pytest.param(b"", b"", "not a safetensors file", id="empty"),
    ],
)
def test_refuses_unsound_headers(header: object, data: bytes, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        read_header(container(header, data))


def test_names_a_dtype_that_it_cannot_read() -> None:
    with pytest.raises(UnsupportedModelError, match="F4"):
        read_header(container({"a": entry("F4", (8,))}, bytes(4)))


def test_refuses_a_header_beyond_the_file_before_reading_it() -> None:
    with pytest.raises(ModelFileError, match="ends within its header"):
        read_header(io.BytesIO((1 << 62).to_bytes(8, "little") + b"{}"))


def test_refuses_a_header_beyond_the_formats_limit(tmp_path: Path) -> None:
    path = tmp_path / "sparse.safetensors"
    with path.open("wb") as file:
        file.write((1 << 30).to_bytes(8, "little") + b"{")
        file.truncate(1 << 31)
    with path.open("rb") as file, pytest.raises(ModelFileError, match=r"sparse\.safetensors has a header of"):
        read_header(file)


def test_every_truncation_is_an_error() -> None:
    raw = save(TENSORS)
    for size in range(len(raw)):
        with pytest.raises(ModelFileError):
            read_header(io.BytesIO(raw[:size]))


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_header_gives_entries_in_range_or_one_error(flips: list[tuple[int, int]]) -> None:
    raw = bytearray(save(TENSORS))
    for position, value in flips:
        raw[position % len(raw)] = value
    try:
        entries = read_header(io.BytesIO(raw))
    except ModelError:
        return
    for found in entries.values():
        assert isinstance(found, TensorEntry)
        assert 8 <= found.start <= found.stop <= len(raw)

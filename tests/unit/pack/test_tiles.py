import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tpid.model.weights import Format, W4Matrix, W4SMatrix, quantize
from tpid.pack.geometry import TILE_BYTES
from tpid.pack.tiles import dequantize_tiles, pack_tiles, unpack_rows, unpack_tiles

shapes = st.tuples(st.integers(0, 40), st.integers(1, 100))
values = shapes.flatmap(
    lambda shape: hnp.arrays(np.float32, shape, elements=st.floats(-60000, 60000, width=32, allow_subnormal=False))
)


@given(values, st.sampled_from(list(Format)))
def test_what_is_packed_is_unpacked(x: np.ndarray, format: Format) -> None:
    matrix = quantize(x, format)
    rows, columns = x.shape
    data = pack_tiles(matrix)
    assert data.size == -(-rows // 8) * -(-columns // 32) * TILE_BYTES[format]
    unpacked = unpack_tiles(data, rows, columns, format)
    assert unpacked.format is format
    np.testing.assert_array_equal(dequantize_tiles(data, rows, columns, format), matrix.dequantize()[:, :columns])


@given(st.lists(st.integers(0, 39), max_size=5), st.integers(1, 100), st.sampled_from(list(Format)))
def test_rows_are_unpacked_one_by_one(rows: list[int], columns: int, format: Format) -> None:
    matrix = quantize(np.random.default_rng(3).normal(size=(40, columns)).astype(np.float32), format)
    bands = pack_tiles(matrix).reshape(5, -1)
    chosen = np.array(rows, np.intp)
    unpacked = unpack_rows(bands[chosen // 8], chosen % 8, columns, format)
    np.testing.assert_array_equal(unpacked.dequantize()[:, :columns], matrix.dequantize()[chosen, :columns])


def test_w4_lanes_are_rows() -> None:
    """The layout as docs/pack-format.md states it, byte by byte."""
    rng = np.random.default_rng(1)
    quants = rng.integers(0, 16, (8, 2, 32), dtype=np.uint8)
    scales = rng.normal(size=(8, 2)).astype(np.float16)
    minimums = rng.normal(size=(8, 2)).astype(np.float16)
    data = pack_tiles(W4Matrix(quants, scales, minimums))
    for tile in range(2):
        raw = data[tile * 160 : (tile + 1) * 160]
        np.testing.assert_array_equal(raw[:16].view(np.float16), scales[:, tile])
        np.testing.assert_array_equal(raw[16:32].view(np.float16), minimums[:, tile])
        for vector in range(4):
            for row in range(8):
                for byte in range(4):
                    packed = raw[32 + 32 * vector + 4 * row + byte]
                    assert packed & 15 == quants[row, tile, 8 * vector + byte]
                    assert packed >> 4 == quants[row, tile, 8 * vector + 4 + byte]


def test_w4s_is_w4_without_minimums() -> None:
    rng = np.random.default_rng(1)
    quants = rng.integers(0, 16, (8, 2, 32), dtype=np.uint8)
    scales = rng.normal(size=(8, 2)).astype(np.float16)
    with_minimums = pack_tiles(W4Matrix(quants, scales, scales)).reshape(2, 160)
    without = pack_tiles(W4SMatrix(quants, scales)).reshape(2, 144)
    np.testing.assert_array_equal(without, np.delete(with_minimums, range(16, 32), axis=1))


def test_w8_lanes_are_rows() -> None:
    x = np.random.default_rng(2).normal(size=(8, 32)).astype(np.float32)
    matrix = quantize(x, Format.W8)
    data = pack_tiles(matrix)
    np.testing.assert_array_equal(data[:16].view(np.float16), matrix.scales[:, 0])
    lanes = data[16:].view(np.int8).reshape(8, 8, 4)
    for vector in range(8):
        np.testing.assert_array_equal(lanes[vector], matrix.quants[:, 0, 4 * vector : 4 * vector + 4])


@pytest.mark.parametrize("format", [Format.F16, Format.BF16])
def test_half_lanes_are_rows(format: Format) -> None:
    matrix = quantize(np.random.default_rng(3).normal(size=(8, 32)).astype(np.float32), format)
    np.testing.assert_array_equal(pack_tiles(matrix).view(np.uint16).reshape(32, 8), matrix.bits.T)

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.matrices import random_matrix
from tpid.model.weights import CODINGS, ROUNDED_TO, CodedMatrix, Format, Scales, W4Matrix, W4SMatrix, quantize
from tpid.pack.geometry import TILE_BYTES, band_bytes
from tpid.pack.tiles import dequantize_tiles, pack_tiles, unpack_rows, unpack_tiles

shapes = st.tuples(st.integers(0, 40), st.integers(1, 100))
values = shapes.flatmap(
    lambda shape: hnp.arrays(np.float32, shape, elements=st.floats(-60000, 60000, width=32, allow_subnormal=False))
)


@given(values, st.sampled_from(ROUNDED_TO))
def test_what_is_packed_is_unpacked(x: np.ndarray, format: Format) -> None:
    matrix = quantize(x, format)
    rows, columns = x.shape
    data = pack_tiles(matrix)
    assert data.size == -(-rows // 8) * -(-columns // 32) * TILE_BYTES[format]
    unpacked = unpack_tiles(data, rows, columns, format)
    assert unpacked.format is format
    np.testing.assert_array_equal(dequantize_tiles(data, rows, columns, format), matrix.dequantize()[:, :columns])


@given(st.integers(0, 40), st.integers(1, 600), st.sampled_from(list(CODINGS)), st.integers(0, 9))
def test_coded_matrices_are_unpacked(rows: int, columns: int, format: Format, seed: int) -> None:
    matrix = random_matrix(np.random.default_rng(seed), rows, columns, format)
    data = pack_tiles(matrix)
    assert data.size == -(-rows // 8) * band_bytes(format, -(-columns // 32))
    unpacked = unpack_tiles(data, rows, columns, format)
    assert isinstance(unpacked, CodedMatrix)
    assert isinstance(matrix, CodedMatrix)
    for name in ("codes", "scales", "minimums", "factors"):
        np.testing.assert_array_equal(getattr(unpacked, name), getattr(matrix, name), err_msg=name)
    assert not unpack_tiles(data, -(-rows // 8) * 8, columns, format).dequantize()[rows:].any()


@pytest.mark.parametrize("format", CODINGS)
@pytest.mark.parametrize("unit_groups", [1, 2, 3, 4, 7, 8, 12, 14])
def test_units_of_any_columns_hold_what_the_matrix_does(format: Format, unit_groups: int) -> None:
    """Wherever a unit's edge cuts a super-block."""
    matrix, width = random_matrix(np.random.default_rng(4), 9, 32 * 3 * unit_groups, format), 32 * unit_groups
    for start in range(0, matrix.shape[1], width):
        part = matrix.columns(start, start + width)
        found = dequantize_tiles(pack_tiles(part), 9, width, format)
        np.testing.assert_array_equal(found, matrix.dequantize()[:, start : start + width])


@pytest.mark.parametrize("format", CODINGS)
def test_coded_tiles_lie_as_the_document_says(format: Format) -> None:
    """Byte by byte, each code and each scale from where docs/pack-format.md puts it."""
    coding, matrix = CODINGS[format], random_matrix(np.random.default_rng(5), 8, 512, format)
    assert isinstance(matrix, CodedMatrix)
    data = pack_tiles(matrix)
    factor_bytes = 0 if matrix.factors is None else 16 * matrix.factors.shape[-1]
    run_bytes = factor_bytes + 8 * TILE_BYTES[format]
    for tile in (0, 5, 13):
        run = data[tile // 8 * run_bytes :]
        raw = run[factor_bytes + tile % 8 * TILE_BYTES[format] :][: TILE_BYTES[format]]
        for row in range(8):
            for factor in range(factor_bytes // 16):
                found = run[16 * factor + 2 * row :][:2].view(np.float16)
                assert found == matrix.factors[row, tile, factor]  # type: ignore[index]
            for n in range(32):
                assert _code(raw, coding.low_bits, coding.high_bits, row, n) == matrix.codes[row, tile, n]
            _check_scales(raw, matrix, row, tile)


def _code(raw: np.ndarray, low_bits: int, high_bits: int, row: int, n: int) -> int:
    """Input n of a row; planes of bits lie at the end of a tile."""
    k, byte, value, at = n // 4, n % 4, 0, raw.size - 32 * (low_bits + high_bits)
    places = {4: (k // 2, 4 * (k % 2)), 2: (k // 2 % 2, 2 * (k % 2) + 4 * (k // 4)), 1: (0, k)}
    for bits, up in ((low_bits, 0), (high_bits, low_bits)):
        if bits:
            vector, shift = places[bits]
            value |= (int(raw[at + 32 * vector + 4 * row + byte]) >> shift & ((1 << bits) - 1)) << up
            at += 32 * bits
    return value


def _check_scales(raw: np.ndarray, matrix: CodedMatrix, row: int, tile: int) -> None:
    coding, scales = CODINGS[matrix.format], matrix.scales[row, tile]
    minimums = None if matrix.minimums is None else matrix.minimums[row, tile]
    if coding.scales is Scales.HALVES:
        numbers = scales if minimums is None else np.concatenate((scales, minimums))
        np.testing.assert_array_equal(raw[: 16 * len(numbers)].view(np.float16)[row::8], numbers)
    elif coding.scales is Scales.SIXES:
        first, second = int(raw[row]) & 63, int(raw[row]) >> 6 | (int(raw[8 + row // 2]) >> 4 * (row % 2) & 15) << 2
        assert [first, second] == ([*scales, *minimums] if minimums is not None else [int(s) + 32 for s in scales])
    elif coding.scales is Scales.NIBBLES:
        assert minimums is not None
        assert [int(raw[8 * h + row]) for h in (0, 1)] == [
            int(s) | int(m) << 4 for s, m in zip(scales, minimums, strict=True)
        ]
    else:
        np.testing.assert_array_equal(raw.view(scales.dtype)[row : 8 * coding.per_group : 8], scales)


@given(st.lists(st.integers(0, 39), max_size=5), st.integers(1, 600), st.sampled_from(list(Format)))
def test_rows_are_unpacked_one_by_one(rows: list[int], columns: int, format: Format) -> None:
    matrix = random_matrix(np.random.default_rng(3), 40, columns, format)
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

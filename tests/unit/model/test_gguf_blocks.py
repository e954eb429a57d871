import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from tpid.errors import ModelFileError
from tpid.model.finite import require_finite
from tpid.model.gguf.blocks import NATURAL_FORMAT, blocks_to_matrix, dequantize_blocks
from tpid.model.gguf.types import OTHER_TYPES, GgmlType
from tpid.model.weights import Format
from tpid.pack.tiles import dequantize_tiles, pack_tiles

EXACT = list(NATURAL_FORMAT)
QUANTIZED = [type for type in EXACT if type.block_weights > 1]
# Where each type keeps its fp16 scale and minimum within a block.
HALVES = {
    GgmlType.Q4_0: (0,),
    GgmlType.Q4_1: (0, 2),
    GgmlType.Q5_0: (0,),
    GgmlType.Q5_1: (0, 2),
    GgmlType.Q8_0: (0,),
    GgmlType.Q2_K: (80, 82),
    GgmlType.Q3_K: (108,),
    GgmlType.Q4_K: (0, 2),
    GgmlType.Q5_K: (0, 2),
    GgmlType.Q6_K: (208,),
    GgmlType.IQ4_NL: (0,),
    GgmlType.IQ4_XS: (0,),
    GgmlType.MXFP4: (),
}
ROWS, COLUMNS = 6, 512


def random_rows(type: GgmlType, seed: int = 1) -> NDArray[np.uint8]:
    """[ROWS, row_bytes]: any bits as quants and small scales, sane fp16 numbers of either sign."""
    random = np.random.default_rng(seed)
    if type.block_weights == 1:
        values = random.normal(0, 0.05, (ROWS, COLUMNS)).astype(np.float32)
        if type is GgmlType.F16:
            return values.astype(np.float16).view(np.uint8)
        bits = values if type is GgmlType.F32 else (values.view(np.uint32) >> 16).astype(np.uint16)
        return bits.view(np.uint8)
    n_blocks = ROWS * COLUMNS // type.block_weights
    blocks = random.integers(0, 256, (n_blocks, type.block_bytes), np.uint8)
    for at in HALVES[type]:
        blocks[:, at : at + 2] = random.normal(0, 0.01, (n_blocks, 1)).astype(np.float16).view(np.uint8)
    if type is GgmlType.MXFP4:
        blocks[:, 0] = random.integers(115, 125, n_blocks)
    return blocks.reshape(ROWS, -1)


def judge(type: GgmlType, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    return gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(type)).astype(np.float32).reshape(len(raw), -1)


def test_block_sizes_and_names_are_ggmls() -> None:
    for type in GgmlType:
        assert gguf.GGMLQuantizationType[type.name] == type
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(type)] == (type.block_weights, type.block_bytes)
    for number, name in OTHER_TYPES.items():
        assert gguf.GGMLQuantizationType(number).name == name


@pytest.mark.parametrize("type", [GgmlType.F32, *EXACT])
def test_dequantizes_as_gguf_does(type: GgmlType) -> None:
    raw = random_rows(type)
    np.testing.assert_array_equal(dequantize_blocks(type, raw.reshape(-1)), judge(type, raw).reshape(-1))


@pytest.mark.parametrize("type", [t for t in QUANTIZED if not t.name.endswith(("_K", "_XS", "_NL"))])
def test_dequantizes_what_gguf_quantizes(type: GgmlType) -> None:
    values = np.random.default_rng(2).normal(0, 0.02, (ROWS, COLUMNS)).astype(np.float32)
    raw = gguf.quants.quantize(values, gguf.GGMLQuantizationType(type))
    found = dequantize_blocks(type, raw.reshape(-1)).reshape(values.shape)
    np.testing.assert_array_equal(found, judge(type, raw))
    assert np.abs(found - values).max() < (0.02 if type is GgmlType.MXFP4 else 0.01)


@pytest.mark.parametrize("type", EXACT)
def test_natural_formats_hold_each_type_exactly(type: GgmlType) -> None:
    raw = random_rows(type)
    matrix = blocks_to_matrix(type, raw, NATURAL_FORMAT[type])
    assert matrix.format is NATURAL_FORMAT[type]
    np.testing.assert_array_equal(matrix.dequantize(), judge(type, raw))


@pytest.mark.parametrize("type", QUANTIZED)
@given(st.data())
@settings(max_examples=25)
def test_any_bytes_are_what_gguf_makes_of_them(type: GgmlType, data: st.DataObject) -> None:
    """To the bit, through tiles too; what is not a finite number stays none."""
    n_blocks = 256 // type.block_weights * 2
    rows = hnp.arrays(
        np.uint8, (2, n_blocks * type.block_bytes), elements=st.sampled_from([0, 1, 15, 127, 128, 240, 255])
    )
    raw = data.draw(st.one_of(rows, hnp.arrays(np.uint8, (2, n_blocks * type.block_bytes))))
    with np.errstate(all="ignore"):
        expected = judge(type, raw)
        matrix = blocks_to_matrix(type, raw, NATURAL_FORMAT[type])
        tiles = dequantize_tiles(pack_tiles(matrix), 2, 512, matrix.format)
        for found in (matrix.dequantize(), tiles):
            finite = np.isfinite(expected)
            np.testing.assert_array_equal(found[finite].view(np.uint32), expected[finite].view(np.uint32))
            np.testing.assert_array_equal(np.isfinite(found), finite)


@pytest.mark.parametrize("type", QUANTIZED)
def test_weights_that_are_not_finite_are_found(type: GgmlType) -> None:
    raw = random_rows(type)
    require_finite(blocks_to_matrix(type, raw, NATURAL_FORMAT[type]), "here", 0)
    places = HALVES[type] or (0,)
    for at in places:
        damaged = raw.copy().reshape(ROWS, -1, type.block_bytes)
        damaged[3, 1, at : at + 2] = [255, 127] if HALVES[type] else damaged[3, 1, at : at + 2]
        if not HALVES[type]:
            damaged[3, 1, 0] = 255
        with pytest.raises(ModelFileError, match="here, row 3"):
            require_finite(blocks_to_matrix(type, damaged.reshape(ROWS, -1), NATURAL_FORMAT[type]), "here", 0)


@pytest.mark.parametrize("type", QUANTIZED)
def test_a_pack_is_hardly_larger_than_the_file(type: GgmlType) -> None:
    """With all columns, and with those of units of half a super-block."""
    raw = np.zeros((8, 4096 // type.block_weights * type.block_bytes), np.uint8)
    matrix = blocks_to_matrix(type, raw, NATURAL_FORMAT[type])
    assert pack_tiles(matrix).size <= 1.02 * raw.nbytes
    halves = sum(pack_tiles(matrix.columns(at, at + 128)).size for at in range(0, 4096, 128))
    assert halves <= 1.05 * raw.nbytes


@pytest.mark.parametrize("type", NATURAL_FORMAT)
def test_no_rows_give_no_rows(type: GgmlType) -> None:
    assert blocks_to_matrix(type, random_rows(type)[:0], NATURAL_FORMAT[type]).shape == (0, COLUMNS)


@pytest.mark.parametrize("format", [Format.F16, Format.BF16])
def test_f32_takes_either_half(format: Format) -> None:
    raw = random_rows(GgmlType.F32)
    matrix = blocks_to_matrix(GgmlType.F32, raw, format)
    assert matrix.format is format
    np.testing.assert_allclose(matrix.dequantize(), raw.view(np.float32), rtol=2.0**-8, atol=1e-7)

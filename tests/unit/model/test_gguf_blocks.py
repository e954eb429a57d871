import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from tpid.model.gguf.blocks import NATURAL_FORMAT, blocks_to_matrix, dequantize_blocks
from tpid.model.gguf.types import OTHER_TYPES, GgmlType
from tpid.model.weights import Format, W4Matrix, W8Matrix

QUANTIZED = [type for type in GgmlType if type.block_weights > 1]
EXACT = [GgmlType.Q4_0, GgmlType.Q4_1, GgmlType.Q5_0, GgmlType.Q8_0, GgmlType.F16, GgmlType.BF16]
ROUNDED = [GgmlType.Q5_1, GgmlType.Q2_K, GgmlType.Q3_K, GgmlType.Q5_K, GgmlType.Q6_K]
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
    return blocks.reshape(ROWS, -1)


def judge(type: GgmlType, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    return gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(type)).astype(np.float32).reshape(len(raw), -1)


def test_block_sizes_and_names_are_ggmls() -> None:
    for type in GgmlType:
        assert gguf.GGMLQuantizationType[type.name] == type
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(type)] == (type.block_weights, type.block_bytes)
    for number, name in OTHER_TYPES.items():
        assert gguf.GGMLQuantizationType(number).name == name


@pytest.mark.parametrize("type", GgmlType)
def test_dequantizes_as_gguf_does(type: GgmlType) -> None:
    raw = random_rows(type)
    np.testing.assert_array_equal(dequantize_blocks(type, raw.reshape(-1)), judge(type, raw).reshape(-1))


@pytest.mark.parametrize("type", [t for t in QUANTIZED if not t.name.endswith("_K")])
def test_dequantizes_what_gguf_quantizes(type: GgmlType) -> None:
    values = np.random.default_rng(2).normal(0, 0.02, (ROWS, COLUMNS)).astype(np.float32)
    raw = gguf.quants.quantize(values, gguf.GGMLQuantizationType(type))
    found = dequantize_blocks(type, raw.reshape(-1)).reshape(values.shape)
    np.testing.assert_array_equal(found, judge(type, raw))
    assert np.abs(found - values).max() < 0.01


@pytest.mark.parametrize("type", EXACT)
def test_natural_formats_hold_these_exactly(type: GgmlType) -> None:
    raw = random_rows(type)
    matrix = blocks_to_matrix(type, raw, NATURAL_FORMAT[type])
    assert matrix.format is NATURAL_FORMAT[type]
    np.testing.assert_array_equal(matrix.dequantize(), judge(type, raw))


def test_q4_k_keeps_its_quants_and_rounds_its_scales() -> None:
    raw = random_rows(GgmlType.Q4_K)
    expected = judge(GgmlType.Q4_K, raw)
    matrix = blocks_to_matrix(GgmlType.Q4_K, raw, Format.W4)
    assert isinstance(matrix, W4Matrix)
    # Half an ulp of fp16 in the scale, times 15, and half an ulp in the minimum.
    scales, minimums = (np.abs(part.astype(np.float32)) for part in (matrix.scales, matrix.minimums))
    bound = np.repeat((15 * scales + minimums) * 2.0**-11 + 1e-6, 32, axis=1)
    assert (np.abs(matrix.dequantize() - expected) <= bound).all()


@pytest.mark.parametrize("type", ROUNDED)
def test_other_types_are_within_the_rounding_of_w8(type: GgmlType) -> None:
    raw = random_rows(type)
    expected = judge(type, raw)
    matrix = blocks_to_matrix(type, raw, Format.W8)
    assert isinstance(matrix, W8Matrix)
    largest = np.abs(expected.reshape(ROWS, -1, 32)).max(axis=-1)
    bound = np.repeat(largest / 127 * 0.5 + largest * 2.0**-10 + 1e-6, 32, axis=1)
    assert (np.abs(matrix.dequantize() - expected) <= bound).all()


@pytest.mark.parametrize("type", [GgmlType.Q5_1, GgmlType.Q2_K, GgmlType.Q5_K, GgmlType.Q6_K])
def test_groups_of_one_scale_and_no_minimum_keep_their_quants(type: GgmlType) -> None:
    blocks = random_rows(type).reshape(-1, type.block_bytes)
    if type is GgmlType.Q6_K:
        blocks[:, 192:208] = 1
    else:
        blocks[:, HALVES[type][1] :][:, :2] = 0
    if type is GgmlType.Q2_K:
        blocks[:, :16] &= 0xF0
        blocks[:, :16] |= 1
    if type is GgmlType.Q5_K:
        blocks[:, 4:16] = [1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1]
    raw = blocks.reshape(ROWS, -1)
    np.testing.assert_array_equal(blocks_to_matrix(type, raw, Format.W8).dequantize(), judge(type, raw))


def test_q6_k_keeps_some_groups_and_rounds_others() -> None:
    blocks = random_rows(GgmlType.Q6_K).reshape(-1, 210)
    blocks[:, 192:208] = 2
    blocks[:, 192] = 9  # the first group of 16 differs from the second
    raw = blocks.reshape(ROWS, -1)
    found = blocks_to_matrix(GgmlType.Q6_K, raw, Format.W8).dequantize().reshape(-1, 256)
    expected = judge(GgmlType.Q6_K, raw).reshape(-1, 256)
    np.testing.assert_allclose(found[:, 32:], expected[:, 32:], rtol=2.0**-11)
    assert (found[:, :32] != expected[:, :32]).any()


@pytest.mark.parametrize("type", NATURAL_FORMAT)
def test_no_rows_give_no_rows(type: GgmlType) -> None:
    assert blocks_to_matrix(type, random_rows(type)[:0], NATURAL_FORMAT[type]).shape == (0, COLUMNS)


@pytest.mark.parametrize("format", [Format.F16, Format.BF16])
def test_f32_takes_either_half(format: Format) -> None:
    raw = random_rows(GgmlType.F32)
    matrix = blocks_to_matrix(GgmlType.F32, raw, format)
    assert matrix.format is format
    np.testing.assert_allclose(matrix.dequantize(), raw.view(np.float32), rtol=2.0**-8, atol=1e-7)

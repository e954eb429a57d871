import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tpid.model.weights import Format, convert, quantize

values = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 9), st.sampled_from([32, 64, 96])), elements=st.floats(-1e4, 1e4, width=32)
)


@given(values)
def test_bf16_rounds_as_torch_does(x: np.ndarray) -> None:
    expected = torch.from_numpy(x).bfloat16().float().numpy()
    np.testing.assert_array_equal(quantize(x, Format.BF16).dequantize(), expected)


def test_bf16_keeps_what_is_not_finite() -> None:
    x = np.array([[np.nan, np.inf, -np.inf, 0.0]], np.float32)
    np.testing.assert_array_equal(quantize(x, Format.BF16).dequantize(), x)


@given(values)
def test_f16_rounds_as_numpy_does(x: np.ndarray) -> None:
    np.testing.assert_array_equal(quantize(x, Format.F16).dequantize(), x.astype(np.float16).astype(np.float32))


@given(values)
def test_w8_is_within_half_a_step(x: np.ndarray) -> None:
    matrix = quantize(x, Format.W8)
    step = np.abs(x.reshape(len(x), -1, 32)).max(-1, keepdims=True) / 127
    error = np.abs(matrix.dequantize() - x).reshape(len(x), -1, 32)
    # Half a step, the fp16 rounding of the scale over 127 steps, and scales below fp16's smallest.
    assert (error <= 0.5 * step * 1.001 + 127 * step * 2**-11 + 127 * 2**-24).all()


@given(values)
def test_w4_is_within_half_a_step(x: np.ndarray) -> None:
    matrix = quantize(x, Format.W4)
    grouped = x.reshape(len(x), -1, 32)
    spread = (grouped.max(-1, keepdims=True) - grouped.min(-1, keepdims=True)) / 15
    largest = np.abs(grouped).max(-1, keepdims=True)
    error = np.abs(matrix.dequantize() - x).reshape(len(x), -1, 32)
    assert (error <= 0.5 * spread * 1.01 + 2**-10 * largest + 16 * spread * 2**-11 + 16 * 2**-24).all()


@given(values)
def test_w4s_is_within_half_a_step_or_clipped_by_one(x: np.ndarray) -> None:
    """The side of the weight furthest from 0 has 8 steps, the other one 7."""
    matrix = quantize(x, Format.W4S)
    grouped = x.reshape(len(x), -1, 32)
    largest = np.abs(grouped).max(-1, keepdims=True)
    furthest = np.take_along_axis(grouped, np.abs(grouped).argmax(-1)[..., None], -1)
    clipped = grouped * np.sign(furthest) < -largest * 7.5 / 8
    error = np.abs(matrix.dequantize() - x).reshape(len(x), -1, 32)
    steps = np.where(clipped, 1.0, 0.5)
    assert (error <= steps * largest / 8 * 1.01 + 8 * largest / 8 * 2**-11 + 9 * 2**-24).all()


def test_converting_to_the_same_format_changes_nothing() -> None:
    matrix = quantize(np.ones((8, 32), np.float32), Format.W4)
    assert convert(matrix, Format.W4) is matrix
    assert convert(matrix, Format.F16).format is Format.F16

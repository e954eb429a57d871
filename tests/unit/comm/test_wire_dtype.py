import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tpid.comm.wire_dtype import WireDtype, add_decoded, decode_tensor, encode_tensor, wire_bytes

finite = st.floats(-(2.0**100), 2.0**100, width=32)
rows = hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.sampled_from([32, 64, 96])), elements=finite)
any_bits = hnp.arrays(np.uint32, st.tuples(st.integers(1, 5), st.integers(1, 70)))


def encoded(x: np.ndarray, dtype: WireDtype) -> bytes:
    out = bytearray(wire_bytes(dtype, *x.shape))
    encode_tensor(x, dtype, memoryview(out))
    return bytes(out)


def decoded(data: bytes, dtype: WireDtype, shape: tuple[int, int]) -> np.ndarray:
    out = np.full(shape, 777, np.float32)
    decode_tensor(data, dtype, out)
    return out


@given(any_bits)
def test_fp32_keeps_every_bit(bits: np.ndarray) -> None:
    x = bits.view(np.float32)
    data = encoded(x, WireDtype.FP32)
    assert data == x.astype("<f4").tobytes()
    assert decoded(data, WireDtype.FP32, x.shape).tobytes() == x.tobytes()


@given(any_bits)
def test_bf16_rounds_as_torch_does(bits: np.ndarray) -> None:
    x = bits.view(np.float32)
    ours = torch.frombuffer(bytearray(encoded(x, WireDtype.BF16)), dtype=torch.bfloat16).reshape(x.shape)
    judge = torch.from_numpy(x.copy()).to(torch.bfloat16)
    nan = torch.isnan(judge)
    assert torch.equal(torch.isnan(ours), nan)
    assert torch.equal(ours.view(torch.int16)[~nan], judge.view(torch.int16)[~nan])


@given(any_bits)
def test_bf16_decodes_as_torch_does(bits: np.ndarray) -> None:
    halves = bits.astype(np.uint16)
    judge = torch.from_numpy(halves.view(np.int16).copy()).view(torch.bfloat16).to(torch.float32).numpy()
    ours = decoded(halves.astype("<u2").tobytes(), WireDtype.BF16, halves.shape)
    np.testing.assert_array_equal(ours, judge)


def test_a_nan_that_rounding_would_carry_into_zero_stays_nan() -> None:
    x = np.array([[0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001]], np.uint32).view(np.float32)
    assert np.isnan(decoded(encoded(x, WireDtype.BF16), WireDtype.BF16, x.shape)).all()


@given(rows)
def test_int8_is_off_by_half_a_step_at_most(x: np.ndarray) -> None:
    out = decoded(encoded(x, WireDtype.INT8), WireDtype.INT8, x.shape)
    blocks = np.abs(x.astype(np.float64).reshape(-1, 32))
    step = blocks.max(axis=1, keepdims=True) / 127
    error = np.abs(out.astype(np.float64) - x).reshape(-1, 32)
    assert (error <= step * 0.5001 + 127 * 2.0**-126).all()


def test_int8_layout_byte_by_byte() -> None:
    x = np.zeros((2, 32), np.float32)
    x[0, :3] = [127, -127, 1.4]
    x[1, 5] = -2
    data = encoded(x, WireDtype.INT8)
    quants = [[127, -127, 1, *[0] * 29], [0, 0, 0, 0, 0, -127, *[0] * 26]]
    assert data == struct.pack("<ff32b32b", 1.0, np.float32(2) / np.float32(127), *quants[0], *quants[1])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_int8_shows_a_value_that_is_not_finite(value: float) -> None:
    x = np.ones((2, 64), np.float32)
    x[1, 3] = value
    out = decoded(encoded(x, WireDtype.INT8), WireDtype.INT8, x.shape)
    assert np.isnan(out[1, :32]).all()
    np.testing.assert_array_equal(np.delete(out.reshape(4, 32), 2, axis=0), 1)


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-38, 3.4e38])
def test_int8_at_the_ends_of_the_range(value: float) -> None:
    x = np.full((1, 32), value, np.float32)
    out = decoded(encoded(x, WireDtype.INT8), WireDtype.INT8, x.shape)
    expected = 0 if value < 127 * 2.0**-126 else value
    np.testing.assert_allclose(out, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", list(WireDtype))
@pytest.mark.parametrize("shape", [(1, 32), (3, 20000), (1, 32768), (5, 32768)])
def test_adding_is_decoding_and_one_addition(dtype: WireDtype, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(7)
    x, start = rng.standard_normal((2, *shape), np.float32)
    data = encoded(x, dtype)
    total = start.copy()
    add_decoded(data, dtype, total)
    assert total.tobytes() == (start + decoded(data, dtype, shape)).tobytes()
    assert np.abs(decoded(data, dtype, shape) - x).max() < 0.05


@pytest.mark.parametrize("dtype", list(WireDtype))
@pytest.mark.parametrize("n_bytes", [0, 1, 2, 4, 36, 63, 73, 200])
def test_a_payload_of_the_wrong_size_is_not_taken(dtype: WireDtype, n_bytes: int) -> None:
    x = np.ones((1, 64), np.float32)
    with pytest.raises(ValueError, match=r"does not fit|whole number|multiple of"):
        encode_tensor(x, dtype, memoryview(bytearray(n_bytes)))
    with pytest.raises(ValueError, match=r"does not fit|whole number|multiple of"):
        decode_tensor(bytes(n_bytes), dtype, x)
    with pytest.raises(ValueError, match=r"does not fit|whole number|multiple of"):
        add_decoded(bytes(n_bytes), dtype, x)


@given(st.binary(min_size=72, max_size=72))
def test_any_bytes_decode(data: bytes) -> None:
    out = decoded(data, WireDtype.INT8, (2, 32))
    assert out.shape == (2, 32)


def test_int8_needs_whole_blocks() -> None:
    assert not WireDtype.INT8.accepts(48)
    assert WireDtype.BF16.accepts(48)
    with pytest.raises(ValueError, match="multiple of 32"):
        wire_bytes(WireDtype.INT8, 1, 48)


@pytest.mark.parametrize(("dtype", "n_bytes"), [("fp32", 384), ("bf16", 192), ("int8", 108)])
def test_sizes(dtype: str, n_bytes: int) -> None:
    assert wire_bytes(WireDtype(dtype), 3, 32) == n_bytes

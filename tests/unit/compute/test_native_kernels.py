"""Each set of kernels against fp32, within the bound that rounding the activations to int8 explains."""

from dataclasses import replace

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis.extra import numpy as arrays

from tests.matrices import random_matrix, sums_apart
from tests.native.bounds import bound
from tpid.compute.native.library import Cores, kernel_names, load
from tpid.model.weights import CODINGS, F32, ROUNDED_TO, CodedMatrix, Format, Matrix, W8Matrix, quantize
from tpid.pack.geometry import MatrixGeometry
from tpid.pack.tiles import pack_tiles

LIBRARY = load()
if LIBRARY is None:
    pytest.skip("the native kernels are not built", allow_module_level=True)

NAMES = kernel_names(LIBRARY)
KERNELS = [f"{name}-{planes}" for name in NAMES for planes in (1, 2)]  # with activations of one int8, or two
STEP = 1e-3  # normal weights and activations: where a tie tips, the next whole number of the second plane
CORES = {f"{name}-{planes}": Cores(2, name, planes=planes) for name in NAMES for planes in (1, 2)}


def product(kernels: str, matrix: Matrix, rows: int, columns: int, x: F32) -> F32:
    geometry = MatrixGeometry("rows", rows, columns, matrix.format, 0)
    return CORES[kernels].rows(geometry, pack_tiles(matrix).reshape(1, -1), rows, x)


@pytest.mark.parametrize("format", Format)
@pytest.mark.parametrize("kernels", KERNELS)
@hypothesis.given(
    rows=st.integers(1, 70), columns=st.integers(1, 130), n=st.integers(1, 70), seed=st.integers(0, 2**32 - 1)
)
@hypothesis.settings(max_examples=25, deadline=None)
def test_any_shape(kernels: str, format: Format, *, rows: int, columns: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = random_matrix(rng, rows, columns, format, 10.0 ** rng.integers(-3, 3))
    x = rng.standard_normal((n, columns), np.float32) * np.float32(10.0 ** rng.integers(-6, 6))
    check(kernels, matrix, rows, columns, x)


@pytest.mark.parametrize("format", ROUNDED_TO)
@pytest.mark.parametrize("kernels", KERNELS)
@hypothesis.given(
    x=arrays.arrays(np.float32, (3, 64), elements=st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False)),
    values=arrays.arrays(np.float32, (9, 64), elements=st.floats(-(2.0**14), 2.0**14, width=16)),
)
@hypothesis.settings(max_examples=25, deadline=None)
def test_any_values(kernels: str, format: Format, x: F32, values: F32) -> None:
    x[np.abs(x) < 1e-20] = 0
    check(kernels, quantize(values, format), 9, 64, x)


def check(kernels: str, matrix: Matrix, rows: int, columns: int, x: F32) -> None:
    weights = matrix.dequantize()[:, :columns]
    minimums = sums_apart(matrix)
    if minimums is not None:
        minimums = minimums[:, :columns]
    error = np.abs(product(kernels, matrix, rows, columns, x) - x.astype(np.float64) @ weights.T.astype(np.float64))
    planes = int(kernels[-1])
    allowed = bound(weights.astype(np.float64), minimums, x.astype(np.float64), matrix.format, planes)
    assert np.all(error <= allowed + 1e-30), f"{(error - allowed).max()} above the bound"


@pytest.mark.parametrize("kernels", KERNELS)
def test_the_largest_quants_do_not_overflow(kernels: str) -> None:
    for quants in (-128, -127, 127):
        matrix = W8Matrix(np.full((8, 2, 32), quants, np.int8), np.ones((8, 2), np.float16))
        for x in (-1.0, 1.0):
            result = product(kernels, matrix, 8, 64, np.full((5, 64), x, np.float32))
            np.testing.assert_allclose(result, quants * x * 64, rtol=1e-6)
    high = quantize(np.tile(np.float32([0, 15]), (8, 32)), Format.W4)
    np.testing.assert_allclose(product(kernels, high, 8, 64, np.ones((5, 64), np.float32)), 15 * 32, rtol=1e-6)


@pytest.mark.parametrize("format", CODINGS)
@pytest.mark.parametrize("kernels", KERNELS)
def test_the_largest_codes_and_scales_do_not_overflow(kernels: str, format: Format) -> None:
    """Of all codes one, the largest scale, and activations of either sign at their largest."""
    columns, bits = 256, CODINGS[format].low_bits + CODINGS[format].high_bits
    drawn = random_matrix(np.random.default_rng(1), 8, columns, format)
    assert isinstance(drawn, CodedMatrix)
    scales = np.full_like(drawn.scales, drawn.scales.max())
    for code in range(0, 1 << bits, max(1, (1 << bits) // 15)):
        matrix = replace(drawn, codes=np.full_like(drawn.codes, code), scales=scales)
        for x in (-1.0, 1.0):
            check(kernels, matrix, 8, columns, np.full((5, columns), x, np.float32))


@pytest.mark.parametrize("format", Format)
@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so(kernels: str, format: Format, bad: float) -> None:
    x = np.ones((3, 64), np.float32)
    x[1, 40] = bad
    matrix = random_matrix(np.random.default_rng(1), 8, 64, format)
    result = product(kernels, matrix, 8, 64, x)
    np.testing.assert_array_equal(np.isfinite(result), [[True] * 8, [False] * 8, [True] * 8])


@pytest.mark.parametrize("format", Format)
def test_all_kernels_agree_on_chunks_of_many_tokens(format: Format) -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((151, 96), np.float32)
    matrix = random_matrix(rng, 136, 96, format)
    for planes in (1, 2):
        results = [product(f"{name}-{planes}", matrix, 133, 96, x) for name in NAMES]
        for result in results[1:]:
            np.testing.assert_allclose(result, results[0], atol=STEP)


@pytest.mark.parametrize("format", Format)
@pytest.mark.parametrize("kernels", KERNELS)
def test_tokens_come_out_alike_alone_and_among_many(kernels: str, format: Format) -> None:
    """To the bit, where products are of whole numbers: whatever a batch holds, decode goes on as it would alone."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((75, 800), np.float32)
    matrix = random_matrix(rng, 72, 800, format)
    together = product(kernels, matrix, 69, 800, x)
    alone = np.concatenate([product(kernels, matrix, 69, 800, x[i : i + 1]) for i in (0, 9, 40, 71, 74)])
    exact = format not in (Format.F16, Format.BF16)
    np.testing.assert_allclose(together[[0, 9, 40, 71, 74]], alone, rtol=0, atol=0 if exact else STEP)


def test_wrong_shapes_are_refused() -> None:
    matrix = MatrixGeometry("rows", 8, 64, Format.W8, 0)
    units = np.zeros((1, 544), np.uint8)
    with pytest.raises(ValueError, match="columns"):
        CORES["portable-2"].rows(matrix, units, 8, np.zeros((1, 32), np.float32))
    with pytest.raises(ValueError, match="do not hold"):
        CORES["portable-2"].rows(matrix, units[:, :500].copy(), 8, np.zeros((1, 64), np.float32))
    with pytest.raises(ValueError, match="no kernels"):
        Cores(1, "quantum")

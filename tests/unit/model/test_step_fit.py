import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tpid.model.step_fit import fit_w4
from tpid.model.weights import F32, Format, quantize


@given(st.integers(1, 15), st.integers(-15, 15), st.floats(2.0**-10, 2.0**10, width=16), st.integers(0, 2**32 - 1))
def test_weights_at_equal_distances_are_met(n_steps: int, first: int, step: float, seed: int) -> None:
    """To what fp16 makes of step and minimum, for as few levels as a group may have."""
    levels = np.random.default_rng(seed).integers(0, n_steps + 1, (3, 64)) + first
    values = (levels * step).astype(np.float32)
    error = np.abs(fit_w4(values).dequantize() - values)
    assert error.max() <= 2.0**-10 * np.abs(values).max()


@given(hnp.arrays(np.float32, (2, 64), elements=st.floats(-(2.0**14), 2.0**14, width=16)))
def test_it_loses_no_more_than_15_steps_do(values: F32) -> None:
    fitted = ((fit_w4(values).dequantize() - values).astype(np.float64) ** 2).sum()
    plain = ((quantize(values, Format.W4).dequantize() - values).astype(np.float64) ** 2).sum()
    assert fitted <= plain * (1 + 1e-3) + 1e-9


def test_many_groups_are_as_one_by_one() -> None:
    values = np.random.default_rng(1).standard_normal((70, 1024), np.float32)
    together = fit_w4(values)
    assert together.shape == values.shape
    np.testing.assert_array_equal(together.rows(slice(69, 70)).dequantize(), fit_w4(values[69:]).dequantize())
    assert fit_w4(values[:0]).shape == (0, 1024)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_what_it_cannot_hold_shows(bad: float) -> None:
    values = np.ones((2, 64), np.float32)
    values[1, 40] = bad
    with np.errstate(all="ignore"):
        matrix = fit_w4(values)
    finite = np.isfinite(matrix.scales) & np.isfinite(matrix.minimums)
    np.testing.assert_array_equal(finite, [[True, True], [True, False]])

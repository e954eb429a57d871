"""The half format of fp32 weights, judged by torch's own halves."""

import numpy as np
import pytest
import torch

from tpid.errors import ModelFileError, UnsupportedModelError
from tpid.model import halffit
from tpid.model.halffit import HalfFit, HalfFits, scan_half_fit
from tpid.model.weights import F32, Format

RNG = np.random.default_rng(3)
NORMAL = RNG.standard_normal((40, 96)).astype(np.float32)


def fit(values: F32) -> HalfFit:
    shape = values.shape[0], values.shape[1]
    return scan_half_fit(lambda start, stop: values[start:stop], shape, "a tensor")


def rounded(values: F32, dtype: torch.dtype) -> F32:
    result: F32 = torch.from_numpy(values).to(dtype).float().numpy()
    return result


@pytest.mark.parametrize(
    ("values", "format"),
    [
        pytest.param(rounded(NORMAL, torch.float16), Format.F16, id="half"),
        pytest.param(rounded(NORMAL * 1e-7, torch.float16), Format.F16, id="half, subnormal"),
        pytest.param(rounded(NORMAL, torch.bfloat16), Format.F16, id="bfloat16 that half holds too"),
        pytest.param(rounded(NORMAL * 1e-4, torch.bfloat16), Format.BF16, id="bfloat16 that would be subnormal"),
        pytest.param(rounded(NORMAL * 1e30, torch.bfloat16), Format.BF16, id="bfloat16 beyond half"),
        pytest.param(np.zeros((3, 32), np.float32), Format.F16, id="zero"),
    ],
)
def test_the_format_that_holds_all_is_taken(values: F32, format: Format) -> None:
    assert fit(values) == HalfFit(format, exact=True)


@pytest.mark.parametrize(
    ("scale", "format"), [(1.0, Format.F16), (1e-3, Format.F16), (1e-8, Format.BF16), (1e5, Format.BF16)]
)
def test_otherwise_the_one_that_loses_less(scale: float, format: Format) -> None:
    values = (NORMAL * scale).astype(np.float32)
    losses = {
        name: float(np.square(rounded(values, dtype).astype(np.float64) - values).sum())
        for name, dtype in ((Format.F16, torch.float16), (Format.BF16, torch.bfloat16))
    }
    assert min(losses, key=losses.__getitem__) is format
    assert fit(values) == HalfFit(format, exact=False)


def test_one_weight_at_the_end_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halffit, "_SCAN_WEIGHTS", 96)  # a row at a time
    values = rounded(NORMAL, torch.float16)
    values[-1, -1] = 65537.0
    assert fit(values) == HalfFit(Format.BF16, exact=False)
    values[-1, -1] = np.nan
    with pytest.raises(ModelFileError, match="a tensor, row 39: a value is not a finite number"):
        fit(values)
    values[-1, -1] = np.finfo(np.float32).max
    with pytest.raises(UnsupportedModelError, match=r"a tensor has a weight of 3\.4.*beyond what 16 bits can hold"):
        fit(values)


def test_a_matrix_is_read_once_and_what_was_rounded_is_told() -> None:
    fits, reads = HalfFits(), []

    def read(start: int, stop: int) -> F32:
        reads.append(start)
        return rounded(NORMAL, torch.bfloat16)[start:stop]

    for _ in range(2):
        assert fits.format_of("a", read, (40, 96), "a tensor") is Format.F16
    assert reads == [0]
    assert fits.notes() == []
    fits.format_of("b", lambda start, stop: NORMAL[start:stop] * np.float32(1e9), (40, 96), "a tensor")
    assert fits.notes() == ["Its fp32 weights do not fit 16 bits exactly: matrices were rounded, 1 to bf16."]

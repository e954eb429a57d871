"""How far a product of the native kernels may be from the exact one."""

import numpy as np

from tpid.model.weights import F32, Format

UNIT_ROUNDOFF = 2.0**-24  # of fp32


def bound(weights: F32, minimums: F32 | None, x: F32, format: Format, planes: int) -> F32:
    """|error| <= sum over groups of |w| * scale / 2, scale = largest |x| of the group / 127, plus fp32 rounding.

    With a second plane the scale is 128 times smaller.

    A sum of n products in any order is off by n + 8 roundings of the sum of their sizes at most (Higham, Accuracy
    and Stability of Numerical Algorithms, 3.1), the 8 for scales and the sums of tiles. w4 sums q * scale and the
    minimums apart: their rounding is relative to the two, not to their sum.
    """
    sizes = np.abs(weights) if minimums is None else np.abs(weights) + 2 * np.abs(minimums)
    padded = np.pad(np.abs(x), ((0, 0), (0, -x.shape[1] % 32)))
    largest = padded.reshape(len(x), -1, 32).max(axis=-1).repeat(32, axis=1)[:, : x.shape[1]]
    rounding = largest @ sizes.T * (x.shape[1] + 8) * UNIT_ROUNDOFF
    if format in (Format.F16, Format.BF16):
        return rounding
    return rounding + largest / (254 if planes == 1 else 254 * 128) @ np.abs(weights).T * 1.001

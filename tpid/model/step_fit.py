"""4 bits for weights that lie on few levels: the step is fitted to them."""

import numpy as np
from numpy.typing import NDArray

from tpid.model.weights import F32, GROUP, W4Matrix

_GROUPS_AT_ONCE = 2048  # 256 KiB of fp32, which stay in a core's cache
_MAX_STEPS = 15


def fit_w4(values: F32) -> W4Matrix:
    """`values` [rows, columns], columns a multiple of 32, to w4.

    The levels of a group reach from its least weight to its largest in 1 to 15 steps, as many as lose least. Weights on
    up to 16 levels at equal distances are so met to the precision of fp16, where 15 steps would miss most of them.
    """
    rows, columns = values.shape
    grouped = np.ascontiguousarray(values).reshape(-1, GROUP)
    quants = np.empty(grouped.shape, np.uint8)
    scales, minimums = np.empty(len(grouped), np.float16), np.empty(len(grouped), np.float16)
    for start in range(0, len(grouped), _GROUPS_AT_ONCE):
        part = slice(start, start + _GROUPS_AT_ONCE)
        minimums[part], scales[part] = _fitted(grouped[part])
        offset, scale = _offset(grouped[part], minimums[part]), scales[part].astype(np.float32)
        quants[part] = _steps(offset, scale, np.empty_like(offset))
    shape = rows, columns // GROUP
    return W4Matrix(quants.reshape(*shape, GROUP), scales.reshape(shape), minimums.reshape(shape))


def _fitted(grouped: F32) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Minimum and step of each group, [groups, 32] -> [groups]."""
    minimums = grouped.min(axis=-1).astype(np.float16)
    span = grouped.max(axis=-1) - minimums.astype(np.float32)
    offset = _offset(grouped, minimums)
    scratch, best = np.empty_like(offset), span.astype(np.float16)
    least = np.full(len(grouped), np.inf, np.float32)
    for n_steps in range(1, _MAX_STEPS + 1):
        scale = (span / np.float32(n_steps)).astype(np.float16)
        each = scale.astype(np.float32)
        steps = _steps(offset, each, scratch)
        steps *= each[:, None]
        steps -= offset
        loss = np.einsum("ij,ij->i", steps, steps)
        better = loss < least
        least[better], best[better] = loss[better], scale[better]
    return minimums, best


def _offset(grouped: F32, minimums: NDArray[np.float16]) -> F32:
    return grouped - minimums.astype(np.float32)[:, None]


def _steps(offset: F32, scale: F32, out: F32) -> F32:
    """How many steps of `scale` [groups] each weight of `offset` [groups, 32] lies above the minimum, 0 … 15."""
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    np.multiply(offset, inverse[:, None], out=out)
    np.rint(out, out=out)
    return np.clip(out, 0, 15, out=out)

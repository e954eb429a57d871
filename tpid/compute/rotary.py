"""Rotary position embedding, arXiv 2104.09864, in the half-split order of dimensions."""

import torch
from torch import Tensor

from tpid.model.spec import ModelSpec


def inverse_frequencies(spec: ModelSpec) -> Tensor:
    """fp32 [head_dim / 2], scaled as the model asks."""
    exponents = torch.arange(0, spec.head_dim, 2, dtype=torch.int64).float() / spec.head_dim
    frequencies = 1.0 / (spec.rope.theta**exponents)
    if spec.rope.factors is not None:
        frequencies = frequencies / torch.tensor(spec.rope.factors)
    return frequencies


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """x [n_tokens, heads, head_dim], angles [n_tokens, head_dim / 2] -> x rotated, the same shape."""
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    low, high = x.chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)

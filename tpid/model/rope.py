"""The kinds of RoPE scaling that come down to one factor for each pair of dimensions."""

import math
from dataclasses import dataclass


def linear_factors(head_dim: int, factor: float) -> tuple[float, ...]:
    """Position interpolation (arXiv 2306.15595): all frequencies are divided alike."""
    return (factor,) * (head_dim // 2)


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between are blended.

    `original_tokens` is the context before scaling; a wavelength counts as long where fewer than
    `low_freq_factor` of them fit in it, as short where more than `high_freq_factor` do.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_tokens: int


def llama3_factors(head_dim: int, theta: float, scaling: Llama3Scaling) -> tuple[float, ...]:
    """[head_dim / 2] factors for `Rope`."""
    span = scaling.high_freq_factor - scaling.low_freq_factor
    factors = []
    for pair in range(head_dim // 2):
        waves = scaling.original_tokens * theta ** (-2 * pair / head_dim) / (2 * math.pi)
        kept = min(max((waves - scaling.low_freq_factor) / span, 0.0), 1.0)
        factors.append(1 / ((1 - kept) / scaling.factor + kept))
    return tuple(factors)

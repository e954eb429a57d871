"""Rotary position embedding: frequencies, and the kinds of scaling that come down to one factor for each pair."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tpid.model.spec import Rope
from tpid.model.weights import F32


def inverse_frequencies(rope: Rope, head_dim: int, context_tokens: int) -> F32:
    """fp32 [head_dim / 2], scaled as the model asks for this context; 0 for pairs that do not turn."""
    rotary_dims = rope.rotary_dims or head_dim
    exponents = np.arange(0, rotary_dims, 2, dtype=np.float32) / np.float32(rotary_dims)
    frequencies = np.zeros(head_dim // 2, np.float32)
    turning = frequencies[: rotary_dims // 2]
    np.power(np.float32(rope.theta), -exponents, out=turning, dtype=np.float32)
    is_long = rope.original_tokens is not None and context_tokens > rope.original_tokens
    factors = rope.long_factors if is_long and rope.long_factors is not None else rope.factors
    if factors is not None:
        turning /= np.array(factors, np.float32)
    return frequencies


def magnitudes(rope: Rope, frequencies: F32) -> F32:
    """What the dimensions of a pair are multiplied by when they turn, [head_dim / 2] fp32; 1 for those that do not."""
    return np.where(frequencies > 0, np.float32(rope.magnitude), np.float32(1))


def angle_tables(ropes: Sequence[Rope], frequencies: Sequence[F32], positions: F32) -> tuple[F32, F32]:
    """Cosines and sines by which heads turn, each [ropes, positions, head_dim / 2] fp32."""
    if not ropes:
        empty = np.empty((0, len(positions), 0), np.float32)
        return empty, empty
    angles = np.stack([np.outer(positions, each) for each in frequencies])
    sizes = np.stack([magnitudes(rope, each) for rope, each in zip(ropes, frequencies, strict=True)])[:, None]
    return np.cos(angles) * sizes, np.sin(angles) * sizes


def linear_factors(rotary_dims: int, factor: float) -> tuple[float, ...]:
    """Position interpolation (arXiv 2306.15595): all frequencies are divided alike."""
    return (factor,) * (rotary_dims // 2)


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


def llama3_factors(rotary_dims: int, theta: float, scaling: Llama3Scaling) -> tuple[float, ...]:
    """[rotary_dims / 2] factors for `Rope`."""
    span = scaling.high_freq_factor - scaling.low_freq_factor
    factors = []
    for pair in range(rotary_dims // 2):
        waves = scaling.original_tokens * theta ** (-2 * pair / rotary_dims) / (2 * math.pi)
        kept = min(max((waves - scaling.low_freq_factor) / span, 0.0), 1.0)
        factors.append(1 / ((1 - kept) / scaling.factor + kept))
    return tuple(factors)


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN (arXiv 2309.00071): pairs that turn slowly are stretched by `factor`, fast ones kept, those between blended.

    Fast: more than `beta_fast` turns in `original_tokens`; slow: fewer than `beta_slow`.
    """

    factor: float
    original_tokens: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    whole_pairs: bool = True  # the ends of the blend are rounded outwards to whole pairs


def yarn_factors(rotary_dims: int, theta: float, scaling: YarnScaling) -> tuple[float, ...]:
    """[rotary_dims / 2] factors for `Rope`."""

    def pair_of(turns: float) -> float:
        waves = scaling.original_tokens / (turns * 2 * math.pi)
        return rotary_dims * math.log(waves) / (2 * math.log(theta))

    low, high = pair_of(scaling.beta_fast), pair_of(scaling.beta_slow)
    if scaling.whole_pairs:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dims - 1)
    span = high - low if high != low else 0.001  # as in the paper's code: no division by 0
    stretched = [min(max((pair - low) / span, 0.0), 1.0) for pair in range(rotary_dims // 2)]
    return tuple(1 / (part / scaling.factor + (1 - part)) for part in stretched)


def yarn_magnitude(factor: float, weight: float = 1.0) -> float:
    """What keeps the softmax as sharp as before: its temperature, shared by queries and keys."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

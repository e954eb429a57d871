"""Choosing the next token from its logits.

Filters, their order and their rounding are those of transformers' logits processors.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tpid.errors import NumericError, RequestError
from tpid.model.weights import F32

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0
MAX_TOP_K = 1 << 31
MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY = 0.01, 100.0
MAX_PENALTY = 2.0  # for and against tokens that the answer has
MAX_BIAS = 100.0
MAX_ID = (1 << 31) - 1
MIN_SEED, MAX_SEED = -(1 << 63), (1 << 64) - 1

F64 = NDArray[np.float64]
_Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Raises RequestError where a value is out of range."""

    temperature: float = 0.0  # 0 is greedy: the filters below then make no difference
    top_k: int = 0  # keep the k likeliest; 0 keeps all
    top_p: float = 1.0  # keep the likeliest that together have this probability
    min_p: float = 0.0  # keep those at least this probable, as a part of the likeliest one's probability
    repetition_penalty: float = 1.0  # divides (where negative: multiplies) the logits of tokens seen before
    frequency_penalty: float = 0.0  # taken off a token's logit for each time that the answer has it
    presence_penalty: float = 0.0  # taken off once, if the answer has it
    logit_bias: Mapping[int, float] = field(default_factory=dict)  # added to the logits of these ids
    seed: int | None = None  # the same seed gives the same tokens, None a new one each time
    # Names of the fields above that nobody has asked for: where the model's publisher says something, that counts.
    unsaid: frozenset[str] = field(default=frozenset(), compare=False)

    def __post_init__(self) -> None:
        if self.temperature != 0:
            _check_number("temperature", self.temperature, MIN_TEMPERATURE, MAX_TEMPERATURE, or_else="0 or ")
        _check_integer("top_k", self.top_k, 0, MAX_TOP_K)
        _check_number("top_p", self.top_p, 0, 1)
        _check_number("min_p", self.min_p, 0, 1)
        _check_number("repetition_penalty", self.repetition_penalty, MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY)
        _check_number("frequency_penalty", self.frequency_penalty, -MAX_PENALTY, MAX_PENALTY)
        _check_number("presence_penalty", self.presence_penalty, -MAX_PENALTY, MAX_PENALTY)
        for id, bias in self.logit_bias.items():
            _check_integer("an id of logit_bias", id, 0, MAX_ID, field="logit_bias")
            _check_number("logit_bias", bias, -MAX_BIAS, MAX_BIAS)
        if self.seed is not None:
            _check_integer("seed", self.seed, MIN_SEED, MAX_SEED)


class Sampler:
    """One for each answer; the first `n_prompt` ids of what it is shown are not of the answer.

    `previous_ids`, prompt and answer so far, may only grow from call to call: each call looks at the new ones alone.
    A shorter one starts over.
    """

    def __init__(self, params: SamplingParams, n_prompt: int = 0) -> None:
        self._params = params
        self._bias_ids: _Ids = np.array(list(params.logit_bias), np.int64)
        self._biases = np.array(list(params.logit_bias.values()), np.float32)
        seed = None if params.seed is None else params.seed % (1 << 64)
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._seen = _SeenIds()
        self._answered = _SeenIds(first=n_prompt)

    def sample(self, logits: F32, previous_ids: Sequence[int], allowed: NDArray[np.bool_] | None = None) -> int:
        """`logits`: fp32 [vocab], left unchanged. `allowed`: [vocab], at least one; None for all.

        Raises NumericError where one is not finite, RequestError where a bias is of an id that the model has not.
        """
        scores = self._penalized(logits, previous_ids)
        if self._params.temperature == 0:
            return int((scores if allowed is None else np.where(allowed, scores, -np.inf)).argmax())
        ids, probabilities = _filtered(scores, self._params, allowed)
        cumulative = probabilities.cumsum()
        index = cumulative.searchsorted(self._random.random() * cumulative[-1], side="right")
        return int(ids[min(index, len(ids) - 1)])

    def probabilities(self, logits: F32, previous_ids: Sequence[int]) -> F64:
        """[vocab], the distribution that `sample` draws from; draws nothing. Raises as `sample`."""
        scores = self._penalized(logits, previous_ids)
        result = np.zeros(len(scores))
        if self._params.temperature == 0:
            result[scores.argmax()] = 1.0
            return result
        ids, probabilities = _filtered(scores, self._params)
        result[ids] = probabilities
        return result

    def _penalized(self, logits: F32, previous_ids: Sequence[int]) -> F32:
        """The finite logits, with biases and penalties, scaled by temperature."""
        params = self._params
        scores = self._biased(logits)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
            if params.repetition_penalty != 1:
                ids = self._seen.update(previous_ids, len(logits))
                chosen = scores[ids]
                scores = _own(scores, logits)
                scores[ids] = np.where(
                    chosen < 0, chosen * params.repetition_penalty, chosen / params.repetition_penalty
                )
            if params.frequency_penalty != 0 or params.presence_penalty != 0:
                ids = self._answered.update(previous_ids, len(logits))
                scores = _own(scores, logits)
                scores[ids] -= np.float32(params.presence_penalty)
                scores[ids] -= np.float32(params.frequency_penalty) * self._answered.counts[ids]
            if params.temperature not in (0, 1):
                scores = scores / np.float32(params.temperature)
        finite = np.isfinite(scores)
        if not finite.all():
            raise NumericError(
                f"{int((~finite).sum())} of {len(scores)} logits are not finite numbers.",
                hint="The weights or the arithmetic of a device are damaged: verify the pack on each device.",
            )
        return scores

    def _biased(self, logits: F32) -> F32:
        if not len(self._bias_ids):
            return logits
        if self._bias_ids.min() < 0 or self._bias_ids.max() >= len(logits):
            raise RequestError(
                f"logit_bias has an id that the model does not: its ids are 0 to {len(logits) - 1}.",
                field="logit_bias",
            )
        scores = logits.copy()
        scores[self._bias_ids] += self._biases
        return scores


def _own(scores: F32, logits: F32) -> F32:
    """`scores`, to be changed: the caller's logits are not."""
    return scores.copy() if scores is logits else scores


class _SeenIds:
    """The distinct ids of a growing sequence from its `first` on, and how often each is there.

    An update takes time that does not depend on the length.
    """

    def __init__(self, first: int = 0) -> None:
        self._first = self._n_read = first
        self.counts = np.zeros(0, np.float32)  # [vocab]
        self._ids: _Ids = np.zeros(0, np.int64)
        self._n_ids = 0

    def update(self, sequence: Sequence[int], vocab_size: int) -> _Ids:
        """All ids of `sequence`, each below `vocab_size`."""
        if len(sequence) < self._n_read or len(self.counts) != vocab_size:
            self._n_read, self._n_ids = self._first, 0
            self.counts = np.zeros(vocab_size, np.float32)
            self._ids = np.zeros(vocab_size, np.int64)
        ids, counts = np.unique(np.asarray(sequence[self._n_read :], np.int64), return_counts=True)
        new = ids[self.counts[ids] == 0]
        self.counts[ids] += counts
        self._ids[self._n_ids : self._n_ids + len(new)] = new
        self._n_ids += len(new)
        self._n_read = len(sequence)
        return self._ids[: self._n_ids]


def _filtered(scores: F32, params: SamplingParams, allowed: NDArray[np.bool_] | None = None) -> tuple[_Ids, F64]:
    """The ids that survive, ascending, and their probabilities, which add up to 1."""
    ids: _Ids = np.arange(len(scores)) if allowed is None else np.flatnonzero(allowed)
    scores = scores if allowed is None else scores[ids]
    if 0 < params.top_k < len(scores):
        kth = np.partition(scores, len(scores) - params.top_k)[len(scores) - params.top_k]
        kept = np.flatnonzero(scores >= kth)  # ties with the last one stay
        ids, scores = ids[kept], scores[kept]
    if params.top_p < 1:
        kept = _top_p(_softmax(scores), params.top_p)
        ids, scores = ids[kept], scores[kept]
    probabilities = _softmax(scores)
    if params.min_p > 0:
        single = probabilities.astype(np.float32)
        kept = np.flatnonzero(single >= np.float32(params.min_p) * single.max())
        ids, probabilities = ids[kept], probabilities[kept]
        probabilities /= probabilities.sum()
    return ids, probabilities


def _top_p(probabilities: F64, top_p: float) -> _Ids:
    """Ascending indices of what stays when the least likely go that together have 1 - `top_p` at most."""
    # Those below this bound go anyway, all of them together have less than 1 - top_p: no need to sort them.
    bound = (1 - top_p) / len(probabilities) * (1 - 1e-6)
    candidates = np.flatnonzero(probabilities >= bound)
    ascending = candidates[(-probabilities[candidates]).argsort(kind="stable")[::-1]]  # of equals the lower id stays
    below = 1 - probabilities[candidates].sum()
    cumulative = (probabilities[ascending].cumsum() + below).astype(np.float32)
    first = min(int(cumulative.searchsorted(np.float32(1 - top_p), side="right")), len(ascending) - 1)
    return np.sort(ascending[first:])


def _softmax(scores: F32) -> F64:
    result: F64 = np.exp(scores.astype(np.float64) - scores.max())
    result /= result.sum()
    return result


def _check_number(name: str, value: float, low: float, high: float, or_else: str = "") -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high or not math.isfinite(value):
        raise RequestError(
            f"{name} is {str(value)[:40]}, but must be {or_else}a number from {low:g} to {high:g}.", field=name
        )


def _check_integer(name: str, value: int, low: int, high: int, field: str | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(
            f"{name} is {str(value)[:40]}, but must be a whole number from {low} to {high}.", field=field or name
        )

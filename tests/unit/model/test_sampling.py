"""Sampling, judged by transformers' logits processors."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessorList
from transformers.generation import logits_process as hf

from tpid.errors import NumericError, RequestError
from tpid.model.sampling import Sampler, SamplingParams
from tpid.model.weights import F32

PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.05, 0.5, 0.7, 1.0, 1.3, 5.0]),
    top_k=st.sampled_from([0, 1, 2, 5, 40, 5000]),
    top_p=st.sampled_from([0.0, 0.1, 0.5, 0.75, 0.9, 0.95, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    repetition_penalty=st.sampled_from([0.8, 1.0, 1.1, 2.0]),
    seed=st.just(0),
)


def _theirs(params: SamplingParams, logits: F32, previous: list[int]) -> np.ndarray:
    """What transformers' generate() sets up for these values."""
    processors: list[Any] = []
    if params.repetition_penalty != 1:
        processors.append(hf.RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    if params.temperature != 1:
        processors.append(hf.TemperatureLogitsWarper(params.temperature))
    if params.top_k:
        processors.append(hf.TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        processors.append(hf.TopPLogitsWarper(params.top_p))
    if params.min_p > 0:
        processors.append(hf.MinPLogitsWarper(params.min_p))
    scores = LogitsProcessorList(processors)(torch.tensor([previous], dtype=torch.long), torch.from_numpy(logits[None]))
    return scores[0].softmax(dim=-1).numpy()


def _logits(seed: int, vocab_size: int, spread: float) -> F32:
    return (np.random.default_rng(seed).normal(size=vocab_size) * spread).astype(np.float32)


@settings(max_examples=400, deadline=None)
@given(PARAMS, st.integers(0, 1 << 30), st.sampled_from([1, 2, 7, 300, 4000]), st.sampled_from([0.1, 1.0, 4.0]))
def test_distribution_is_that_of_transformers(
    params: SamplingParams, seed: int, vocab_size: int, spread: float
) -> None:
    logits = _logits(seed, vocab_size, spread)
    previous = np.random.default_rng(seed).integers(0, vocab_size, 20).tolist()
    ours = Sampler(params).probabilities(logits, previous)
    theirs = _theirs(params, logits, previous)
    assert np.array_equal(ours > 1e-30, theirs > 1e-30)
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-30)


@pytest.mark.parametrize("top_p", [0.2, 0.5, 0.75, 0.9, 0.99])
@pytest.mark.parametrize("n_equal", [2, 4, 10, 100])
def test_ties_at_the_bounds_are_cut_as_by_transformers(top_p: float, n_equal: int) -> None:
    """Which of equals stay is up to the sort there, and the lower ids here: so compare how many."""
    logits = np.repeat(np.array([0.5, 1.5], np.float32), n_equal)
    for top_k in (0, 1, n_equal, n_equal + 1):
        params = SamplingParams(temperature=1.0, top_k=top_k, top_p=top_p)
        ours, theirs = Sampler(params).probabilities(logits, []), _theirs(params, logits, [])
        np.testing.assert_allclose(np.sort(ours), np.sort(theirs), rtol=1e-6)
        for equals in (ours[:n_equal] > 0, ours[n_equal:] > 0):
            assert np.array_equal(equals, np.sort(equals)[::-1])


@pytest.mark.parametrize("params", [{"top_p": 0.9}, {"top_p": 0.95, "top_k": 50}, {"min_p": 0.1}, {"temperature": 0.3}])
def test_large_vocabulary(params: dict[str, Any]) -> None:
    sampling = SamplingParams(**({"temperature": 0.8} | params))
    logits = _logits(1, 128_256, 3.0)
    ours, theirs = Sampler(sampling).probabilities(logits, []), _theirs(sampling, logits, [])
    assert np.array_equal(ours > 1e-30, theirs > 1e-30)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-30)


def test_greedy_is_the_default_and_sees_the_penalty() -> None:
    logits = np.array([1.0, 2.0, 1.9, -1.0], np.float32)
    assert Sampler(SamplingParams()).sample(logits, [1]) == 1
    assert Sampler(SamplingParams(repetition_penalty=1.2)).sample(logits, [1, 1]) == 2
    assert Sampler(SamplingParams()).probabilities(logits, []).tolist() == [0, 1, 0, 0]


def test_logits_are_left_unchanged() -> None:
    logits = _logits(0, 50, 1.0)
    before = logits.copy()
    Sampler(SamplingParams(temperature=0.5, repetition_penalty=1.5, top_k=5, top_p=0.9, seed=1)).sample(logits, [1, 2])
    assert np.array_equal(logits, before)


def test_a_seed_gives_the_same_tokens_and_another_others() -> None:
    logits = _logits(0, 1000, 1.0)
    drawn = []
    for seed in (1, 1, 2, -1, (1 << 64) - 1):
        sampler = Sampler(SamplingParams(temperature=1.0, seed=seed))
        drawn.append([sampler.sample(logits, []) for _ in range(20)])
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[3] == drawn[4]  # a signed and an unsigned writing of the same 64 bits
    assert drawn[0][:5] == [483, 938, 136, 934, 287]  # in any process, on any device


def test_probabilities_draw_nothing() -> None:
    logits = _logits(0, 1000, 1.0)
    one, other = (Sampler(SamplingParams(temperature=1.0, seed=3)) for _ in range(2))
    one.probabilities(logits, [])
    assert [one.sample(logits, []) for _ in range(5)] == [other.sample(logits, []) for _ in range(5)]


def test_frequencies_follow_the_probabilities() -> None:
    sampler = Sampler(SamplingParams(temperature=1.0, top_k=4, seed=5))
    logits = _logits(2, 10, 1.0)
    n_draws = 20_000
    counts = np.bincount([sampler.sample(logits, []) for _ in range(n_draws)], minlength=10)
    expected = sampler.probabilities(logits, [])
    assert np.all(np.abs(counts / n_draws - expected) < 4 * np.sqrt(expected * (1 - expected) / n_draws) + 1e-12)


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=8))
def test_penalty_remembers_a_growing_answer_and_starts_over_with_a_shorter(steps: list[list[int]]) -> None:
    params = SamplingParams(temperature=1.0, repetition_penalty=1.7)
    logits = _logits(0, 10, 2.0)
    sampler, previous = Sampler(params), list[int]()
    for new in steps:
        previous = previous + new if new else []
        fresh = Sampler(params).probabilities(logits, previous)
        assert np.array_equal(sampler.probabilities(logits, previous), fresh)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "params", [{}, {"temperature": 1.0}, {"temperature": 0.7, "top_k": 3, "repetition_penalty": 2}]
)
def test_logits_that_are_not_finite_are_refused(bad: float, params: dict[str, Any]) -> None:
    logits = _logits(0, 10, 1.0)
    logits[3] = bad
    with pytest.raises(NumericError, match="1 of 10 logits"):
        Sampler(SamplingParams(**params)).sample(logits, [3])


def test_overflow_is_refused() -> None:
    with pytest.raises(NumericError, match="not finite"):
        Sampler(SamplingParams(temperature=0.01)).sample(np.array([3e38, 0], np.float32), [])


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("temperature", -0.1, "0 or a number from 0.01 to 100"),
        ("temperature", 0.001, "0 or a number"),
        ("temperature", float("nan"), "0 or a number"),
        ("temperature", float("inf"), "0 or a number"),
        ("temperature", "warm", "0 or a number"),
        ("top_k", -1, "whole number from 0"),
        ("top_k", 1.5, "whole number from 0"),
        ("top_k", True, "whole number from 0"),
        ("top_p", 1.1, "from 0 to 1"),
        ("top_p", -0.1, "from 0 to 1"),
        ("min_p", 2, "from 0 to 1"),
        ("min_p", None, "from 0 to 1"),
        ("repetition_penalty", 0, "from 0.01 to 100"),
        ("seed", 1 << 64, "whole number from -9223372036854775808"),
        ("seed", "x", "whole number"),
    ],
)
def test_values_out_of_range_are_named(field: str, value: Any, wanted: str) -> None:
    with pytest.raises(RequestError, match=f"{field} is .*{wanted}"):
        SamplingParams(**{field: value})


def test_penalties_are_openais_formula_over_the_answer_alone() -> None:
    """mu[j] - c[j] * frequency_penalty - (c[j] > 0) * presence_penalty"""
    logits = _logits(5, 50, 2.0)
    prompt, answer = [1, 2, 3, 3], [3, 7, 7, 7, 9]
    params = SamplingParams(temperature=1.0, frequency_penalty=0.5, presence_penalty=-0.25)
    sampler = Sampler(params, len(prompt))
    counts = np.zeros(50)
    for step in range(len(answer) + 1):  # the state grows with the answer
        expected = np.exp(logits - counts * 0.5 + (counts > 0) * 0.25)
        ours = sampler.probabilities(logits, prompt + answer[:step])
        np.testing.assert_allclose(ours, expected / expected.sum(), rtol=1e-4)
        if step < len(answer):
            counts[answer[step]] += 1


def test_biases_are_added_and_can_ban_and_force() -> None:
    logits = np.array([1.0, 2.0, 1.9, -1.0], np.float32)
    assert Sampler(SamplingParams(logit_bias={1: -100.0})).sample(logits, []) == 2
    assert Sampler(SamplingParams(logit_bias={3: 100.0, 1: 5.0})).sample(logits, []) == 3
    ours = Sampler(SamplingParams(temperature=1.0, logit_bias={0: 1.0})).probabilities(logits, [])
    theirs = hf.SequenceBiasLogitsProcessor({(0,): 1.0})(torch.tensor([[1]]), torch.from_numpy(logits[None]))
    np.testing.assert_allclose(ours, theirs[0].softmax(dim=-1).numpy(), rtol=1e-5)
    assert logits.tolist() == pytest.approx([1.0, 2.0, 1.9, -1.0])


def test_a_bias_of_an_id_that_is_none_is_refused() -> None:
    with pytest.raises(RequestError, match="0 to 3") as caught:
        Sampler(SamplingParams(logit_bias={4: 1.0})).sample(np.zeros(4, np.float32), [])
    assert caught.value.field == "logit_bias"
    for bad in ({-1: 1.0}, {1 << 31: 1.0}, {1: 101.0}, {1: float("nan")}):
        with pytest.raises(RequestError):
            SamplingParams(logit_bias=bad)


def test_what_is_not_allowed_is_never_chosen() -> None:
    logits = _logits(3, 60, 3.0)
    allowed = np.zeros(60, np.bool_)
    allowed[[4, 9, 33]] = True
    assert Sampler(SamplingParams()).sample(logits, [], allowed) == max([4, 9, 33], key=lambda id: logits[id])
    for params in ({}, {"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.2}):
        sampler = Sampler(SamplingParams(temperature=5.0, seed=1, **params))  # type: ignore[arg-type]
        assert {sampler.sample(logits, [], allowed) for _ in range(50)} <= {4, 9, 33}
    masked = np.where(allowed, logits, -100).astype(np.float32)
    same = [Sampler(SamplingParams(temperature=1.0, seed=seed)) for seed in range(20)]
    drawn = [sampler.sample(logits, [], allowed) for sampler in same]
    again = [Sampler(SamplingParams(temperature=1.0, seed=seed)).sample(masked, []) for seed in range(20)]
    assert drawn == again

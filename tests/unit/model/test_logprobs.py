import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tpid.model.logprobs import likelihoods


@given(st.integers(0, 1 << 30), st.sampled_from([1, 2, 50, 3000]), st.integers(0, 20))
def test_they_are_log_softmax_and_its_largest(seed: int, vocab_size: int, n_top: int) -> None:
    logits = (np.random.default_rng(seed).normal(size=vocab_size) * 5).astype(np.float32)
    theirs = torch.from_numpy(logits).double().log_softmax(dim=0)
    id = seed % vocab_size
    chosen, top = likelihoods(logits, id, n_top)
    assert chosen.id == id
    assert chosen.logprob == pytest.approx(theirs[id].item(), abs=1e-9)
    values, ids = theirs.topk(min(n_top, vocab_size))
    assert [token.id for token in top] == ids.tolist()
    assert [token.logprob for token in top] == pytest.approx(values.tolist(), abs=1e-9)


def test_of_equals_the_lower_id_comes_first() -> None:
    _, top = likelihoods(np.array([1, 2, 2, 0], np.float32), 0, 3)
    assert [token.id for token in top] == [1, 2, 0]

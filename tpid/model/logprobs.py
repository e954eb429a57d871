"""How likely the model thought a token: of its logits as they are, before any penalty, filter or temperature."""

from dataclasses import dataclass

import numpy as np

from tpid.model.weights import F32


@dataclass(frozen=True, slots=True)
class Likelihood:
    id: int
    logprob: float  # natural logarithm


def likelihoods(logits: F32, id: int, n_top: int) -> tuple[Likelihood, tuple[Likelihood, ...]]:
    """Of token `id`, and of the `n_top` likeliest tokens, the likeliest first. `logits`: fp32 [vocab]."""
    scores = logits.astype(np.float64)
    scores -= scores.max()
    scores -= np.log(np.exp(scores).sum())
    n_top = min(n_top, len(scores))
    top = np.argpartition(scores, len(scores) - n_top)[len(scores) - n_top :] if n_top else np.zeros(0, np.int64)
    top = top[np.lexsort((top, -scores[top]))]  # of equals the lower id comes first
    return Likelihood(id, float(scores[id])), tuple(Likelihood(int(other), float(scores[other])) for other in top)

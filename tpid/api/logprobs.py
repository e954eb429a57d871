"""The probabilities of an answer's tokens, as JSON."""

from collections.abc import Sequence
from typing import Any

from tpid.engine.generation import TokenLogprob, TokenText


def logprobs_of(tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """One object a token: its text, logarithm and bytes, and the likeliest at its place."""
    return [{**_token(token.chosen), "top_logprobs": [_token(other) for other in token.top]} for token in tokens]


def _token(token: TokenText) -> dict[str, Any]:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.bytes)}

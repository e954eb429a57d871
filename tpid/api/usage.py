"""What an answer has cost, as OpenAI tells it, and beside it the times that OpenAI does not tell."""

from collections.abc import Sequence
from typing import Any

from tpid.engine.generation import GenerationStats


def usage_of(*answers: Sequence[GenerationStats]) -> dict[str, Any]:
    """`usage` and `timings` of the answers to each prompt: the tokens together, and the times of the first."""
    first = answers[0][0]
    prompt_tokens = sum(of_prompt[0].prompt_tokens for of_prompt in answers)
    completion_tokens = sum(stats.completion_tokens for of_prompt in answers for stats in of_prompt)
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(of_prompt[0].cached_tokens for of_prompt in answers)},
        "queue_s": first.queue_s,
    }
    timings = {"ttft_s": first.ttft_s, "tpot_s": first.tpot_s, "tokens_s": first.tokens_s}
    return {"usage": usage, "timings": timings}

"""Prompts of a wanted length in tokens, each unlike the one before, for a tokenizer that tpictl does not have."""

import random
from collections.abc import Callable
from dataclasses import dataclass

_WORDS = ("apple", "bread", "bridge", "circle", "dinner", "evening", "garden", "letter", "river", "table", "winter")

PROBE_WORDS = (16, 80)


def bench_prompt(n_words: int, seed: int) -> str:
    """Another beginning for another seed, so that no KV cache has more of it than the template's own beginning."""
    chosen = random.Random(seed)
    return " ".join([str(seed), *chosen.choices(_WORDS, k=n_words)])


@dataclass(frozen=True, slots=True)
class PromptLength:
    """How many tokens a prompt of so many words has, measured once; the chat template's own are among them."""

    fixed_tokens: float
    tokens_a_word: float

    @classmethod
    def probe(cls, count_tokens: Callable[[str], int]) -> "PromptLength":
        """`count_tokens` tells a prompt's length; it is asked twice."""
        few, many = (count_tokens(bench_prompt(n_words, seed=n_words)) for n_words in PROBE_WORDS)
        slope = max((many - few) / (PROBE_WORDS[1] - PROBE_WORDS[0]), 0.1)
        return cls(few - slope * PROBE_WORDS[0], slope)

    def words_for(self, n_tokens: int) -> int:
        """At least one."""
        return max(round((n_tokens - self.fixed_tokens) / self.tokens_a_word), 1)

"""The tokens of one answer, whoever computes them."""

from collections.abc import Callable, Sequence


class TokenSequence:
    """Prompt and answer; knows how many of its tokens are in the KV caches of the plan at hand.

    It outlives plans: with a new one `n_computed` begins at 0, and the same answer goes on.
    """

    def __init__(self, prompt: Sequence[int]) -> None:
        self.ids = list(prompt)
        self.n_prompt = len(self.ids)
        self.n_computed = 0
        self.on_computed: Callable[[TokenSequence], None] = lambda _: None  # called when `computed` was

    @property
    def n_answer(self) -> int:
        return len(self.ids) - self.n_prompt

    def append(self, id: int) -> None:
        self.ids.append(id)

    def computed(self, n_tokens: int) -> None:
        """So many of the tokens, from the first on, are in the KV caches of the plan at hand."""
        self.n_computed = n_tokens
        self.on_computed(self)

    def next_chunk(self, most_tokens: int) -> list[int]:
        """What the next pass computes; empty when the logits after the last token are there."""
        return self.ids[self.n_computed : self.n_computed + most_tokens]

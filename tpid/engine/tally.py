"""What the engine has done since it began, for those who watch it."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from tpid.engine.generation import GenerationStats
from tpid.errors import ModelNotFoundError, RequestError

Outcome: TypeAlias = Literal["answered", "refused", "failed", "cancelled"]

WAIT_BOUNDS_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
TOKEN_BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)


class Histogram:
    """How many values lie at or below each bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds`: in rising order."""
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)  # between the bounds; the last is above all of them
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Running:
    """A request under way."""

    def __init__(self) -> None:
        self.answered = False


@dataclass(slots=True)
class Tally:
    requests: Counter[Outcome] = field(default_factory=Counter)
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of them
    completion_tokens: int = 0
    queue_s: Histogram = field(default_factory=lambda: Histogram(WAIT_BOUNDS_S))
    ttft_s: Histogram = field(default_factory=lambda: Histogram(WAIT_BOUNDS_S))
    tpot_s: Histogram = field(default_factory=lambda: Histogram(TOKEN_BOUNDS_S))

    @contextmanager
    def request(self) -> Iterator[Running]:
        """Around a request; how it ends is counted. Whoever has answered it says so."""
        running = Running()
        outcome: Outcome = "cancelled"
        try:
            yield running
        except (RequestError, ModelNotFoundError):
            outcome = "refused"
            raise
        except Exception:
            outcome = "failed"
            raise
        finally:
            self.requests["answered" if running.answered else outcome] += 1

    def answer(self, stats: GenerationStats, *, is_first: bool) -> None:
        """Count one answer. What a request's first has waited for, the others have not."""
        self.completion_tokens += stats.completion_tokens
        if is_first:
            self.prompt_tokens += stats.prompt_tokens
            self.cached_tokens += stats.cached_tokens
            self.queue_s.add(stats.queue_s)
            self.ttft_s.add(stats.ttft_s)
        if stats.tpot_s is not None:
            self.tpot_s.add(stats.tpot_s)

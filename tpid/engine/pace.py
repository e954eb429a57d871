"""How long requests take here: from this a client that is turned away learns when to come again."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

MIN_RETRY_S: Final = 1
MAX_RETRY_S: Final = 60  # clients do not wait longer, and what is so far ahead is a guess
_WEIGHT: Final = 0.3  # of the newest request in the mean


class Pace:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._mean_s: float | None = None

    @asynccontextmanager
    async def one_request(self) -> AsyncIterator[None]:
        """Around a request's turn."""
        began_s = self._clock()
        try:
            yield
        finally:
            took_s = self._clock() - began_s
            self._mean_s = took_s if self._mean_s is None else self._mean_s + _WEIGHT * (took_s - self._mean_s)

    def until_free_s(self, n_requests: int) -> int:
        """Seconds until half of `n_requests`, running and waiting, have probably had their turn."""
        guess_s = (self._mean_s or 0.0) * n_requests / 2
        return min(max(round(guess_s), MIN_RETRY_S), MAX_RETRY_S)

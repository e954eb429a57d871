"""Waiting until something is true of a state that changes on the event loop."""

import asyncio
from collections.abc import Callable


class Changed:
    """A condition without a lock: state changes in single steps of the loop, so there is nothing to guard."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """The state may have changed: all who wait look again."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait_for(self, predicate: Callable[[], bool]) -> None:
        """Returns in the very step in which `predicate` was true; at once if it is. May be cancelled."""
        while not predicate():
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)

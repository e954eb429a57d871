"""Tasks that live as long as the daemon, whatever a peer, a disk or a network does."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

_AGAIN_S: Final = 1.0  # a fault that comes at once again costs a line of the log a second, not a core

_logger = logging.getLogger(__name__)


async def lives(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """Runs `run` to its end, and again after a fault that nobody has foreseen, which is logged."""
    while True:
        try:
            await run()
        except Exception:
            _logger.exception("task_failed name=%s", name)
            await asyncio.sleep(_AGAIN_S)
        else:
            return

"""Crossing between the event loop and the cores.

A decode step of a small share takes less time than handing it to a thread and back; a prefill step takes
seconds on a Pi, and the heartbeats must go on meanwhile. So short steps run where they are, long ones in
the one compute thread; which is which is learnt from the steps before.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")

INLINE_LIMIT_S = 0.010  # the loop may be deaf for this long; a handover to a thread costs about 0.1 ms
_WEIGHT_OF_LAST = 0.2


class ComputeCalls:
    """Runs steps of one pass at a time; owns the compute thread."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._step_s: dict[int, float] = {}  # by size of the pass, in powers of two
        self.busy_s = 0.0  # all compute so far

    async def run(self, n_tokens: int, call: Callable[[], Result]) -> Result:
        """The result of `call`, a step over `n_tokens`. If cancelled, waits for the step to end first."""
        size = n_tokens.bit_length()
        started = time.perf_counter()
        if self._step_s.get(size, INLINE_LIMIT_S) < INLINE_LIMIT_S:
            result = call()
        else:
            result = await self._in_thread(call)
        self._note(size, time.perf_counter() - started)
        return result

    def close(self) -> None:
        self._executor.shutdown(wait=True)

    async def _in_thread(self, call: Callable[[], Result]) -> Result:
        future = asyncio.get_running_loop().run_in_executor(self._executor, call)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # The step writes into the KV cache and the pass's buffers: nobody may use them before it is over.
            await asyncio.wait([future])
            raise

    def _note(self, size: int, took_s: float) -> None:
        self.busy_s += took_s
        before = self._step_s.get(size, took_s)
        self._step_s[size] = before + _WEIGHT_OF_LAST * (took_s - before)

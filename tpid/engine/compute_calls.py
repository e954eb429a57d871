"""Crossing between the event loop and the cores.

A decode step of a small share takes less time than handing it to a thread and back; a prefill step takes
seconds on a Pi, and the heartbeats must go on meanwhile. So short steps run where they are, long ones in
the one compute thread; which is which is learnt from the steps before. Where weights stream, all run in the
thread: the loop has the next reads to ask for, or the disk idles.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")

# The loop may be deaf for this long, also when one short step follows the other and nothing else waits, as on a
# device alone. A handover to a thread costs about 0.1 ms.
INLINE_LIMIT_S = 0.010
_WEIGHT_OF_LAST = 0.2


class ComputeCalls:
    """Runs steps of one pass at a time; owns the compute thread."""

    def __init__(self, decoded: Callable[[int, int, float], None] | None = None) -> None:
        """`decoded` is told of each decode pass from memory: bytes of weights, steps, and seconds of the cores."""
        self._decoded = decoded
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._step_s: dict[int, float] = {}  # by size of the pass, in powers of two
        self._listened_s = 0.0  # when the loop last had its turn
        self._ended_s = 0.0  # when a step last did
        self.busy_s = 0.0  # of all steps so far
        self.streamed_bytes = 0  # of weights that were read from disk for passes, so far

    @property
    def idle_s(self) -> float:
        """Since a step has ended; the caller knows whether one runs."""
        return time.perf_counter() - self._ended_s

    async def run(self, n_tokens: int, call: Callable[[], Result], *, loop_is_free: bool = True) -> Result:
        """The result of `call`, a step over `n_tokens`. If cancelled, waits for the step to end first.

        `loop_is_free`: whether a short step may run on the event loop.
        """
        size = n_tokens.bit_length()
        started = time.perf_counter()
        inline = loop_is_free and self._step_s.get(size, INLINE_LIMIT_S) < INLINE_LIMIT_S
        result = call() if inline else await self._in_thread(call)
        self._ended_s = ended = time.perf_counter()
        self._learn(size, ended - started)
        self.busy_s += ended - started
        if not inline:
            self._listened_s = ended
        elif ended - self._listened_s > INLINE_LIMIT_S:
            self._listened_s = ended
            await asyncio.sleep(0)
        return result

    def decoded(self, read_bytes: int, n_steps: int, compute_s: float) -> None:
        """A decode pass from memory has ended."""
        if self._decoded is not None:
            self._decoded(read_bytes, n_steps, compute_s)

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

    def _learn(self, size: int, took_s: float) -> None:
        before = self._step_s.get(size, took_s)
        self._step_s[size] = before + _WEIGHT_OF_LAST * (took_s - before)

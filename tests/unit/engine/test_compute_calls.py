import asyncio
import itertools
import threading
import time

import pytest

from tpid.engine.compute_calls import INLINE_LIMIT_S, ComputeCalls


@pytest.fixture
def calls() -> ComputeCalls:
    return ComputeCalls()


def test_the_first_step_of_a_size_runs_in_the_thread_and_short_ones_then_on_the_loop(calls: ComputeCalls) -> None:
    async def run() -> list[bool]:
        here = threading.current_thread()
        return [await calls.run(1, lambda: threading.current_thread() is here) for _ in range(20)]

    inline = asyncio.run(run())
    assert not inline[0]
    assert inline[-1]


def test_long_steps_stay_off_the_loop(calls: ComputeCalls) -> None:
    calls._step_s[8] = 100 * INLINE_LIMIT_S  # as learnt from steps of 128 to 255 tokens

    async def run() -> bool:
        here = threading.current_thread()
        return await calls.run(200, lambda: threading.current_thread() is here)

    assert not asyncio.run(run())


def test_a_cancelled_step_is_over_before_the_cancellation_goes_on(calls: ComputeCalls) -> None:
    begun, may_end = threading.Event(), threading.Event()
    ended: list[bool] = []

    def step() -> None:
        begun.set()
        may_end.wait()
        ended.append(True)

    async def run() -> None:
        task = asyncio.create_task(calls.run(1, step))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended

    asyncio.run(run())


def test_an_error_of_a_step_is_raised(calls: ComputeCalls) -> None:
    def step() -> None:
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        asyncio.run(calls.run(1, step))


def test_short_steps_one_after_the_other_leave_the_loop_its_turns(calls: ComputeCalls) -> None:
    """On a device alone nothing else waits: a client that hangs up must be heard all the same."""
    steps_at_turns: list[int] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        done = 0

        def turn() -> None:
            steps_at_turns.append(done)
            loop.call_later(0, turn)

        await calls.run(1, lambda: None)
        turn()
        for _ in range(200):
            await calls.run(1, lambda: _spin(INLINE_LIMIT_S / 5))
            done += 1

    asyncio.run(run())
    assert max(later - earlier for earlier, later in itertools.pairwise(steps_at_turns)) < 100
    assert len(steps_at_turns) > 5


def _spin(duration_s: float) -> None:
    end = time.perf_counter() + duration_s
    while time.perf_counter() < end:
        pass

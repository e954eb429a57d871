import asyncio

import pytest

from tpid.engine.pace import MAX_RETRY_S, MIN_RETRY_S, Pace


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def after(*durations_s: float) -> Pace:
    clock = Clock()
    pace = Pace(clock)

    async def run() -> None:
        for duration_s in durations_s:
            async with pace.one_request():
                clock.now_s += duration_s

    asyncio.run(run())
    return pace


def test_the_wait_grows_with_the_queue_and_with_what_a_request_takes() -> None:
    assert after().until_free_s(8) == MIN_RETRY_S
    assert after(2.0).until_free_s(8) == 8
    assert after(2.0).until_free_s(16) == 16
    assert 8 < after(2.0, 4.0).until_free_s(8) < 16
    assert after(1000.0).until_free_s(8) == MAX_RETRY_S


def test_a_request_that_fails_counts_too() -> None:
    clock = Clock()
    pace = Pace(clock)

    async def run() -> None:
        async with pace.one_request():
            clock.now_s += 3
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        asyncio.run(run())
    assert pace.until_free_s(2) == 3

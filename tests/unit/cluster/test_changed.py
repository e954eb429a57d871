import asyncio

import pytest

from tpid.cluster.changed import Changed


def test_all_who_wait_look_again() -> None:
    async def test() -> None:
        changed, value = Changed(), 0
        waits = [asyncio.create_task(changed.wait_for(lambda least=least: value >= least)) for least in (0, 1, 2)]
        for value in range(3):
            changed.notify()
            await asyncio.wait(waits, timeout=0)
            async with asyncio.timeout(5):
                await waits[value]
            assert [wait.done() for wait in waits] == [least <= value for least in range(3)]

    asyncio.run(test())


def test_a_wait_can_be_cancelled() -> None:
    async def test() -> None:
        changed = Changed()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await changed.wait_for(lambda: False)
        assert not changed._waiters

    asyncio.run(test())

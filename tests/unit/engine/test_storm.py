"""Storms of faults at any frame of any device, by seed: every answer is the undisturbed one.

`TPID_STORMS=20000` tries as many schedules; the seed that failed is in the test's output.
"""

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.engine.home import Device, End, Home
from tpid.comm.messages import Failed
from tpid.engine import rank_watch
from tpid.engine.authority import Phase
from tpid.errors import DeviceLostError
from tpid.pack.reader import Pack

N_STORMS = int(os.environ.get("TPID_STORMS", "40"))
PROMPT = [5, 17, 301, 44, 9, 270, 3, 81, 12, 500, 77, 31, 8, 2, 599, 41, 6, 7]
N_TOKENS = 12
ANSWERS = 3


@pytest.fixture(scope="module")
def pack(random_model: Callable[..., Path], pack_of: Callable[..., Pack]) -> Pack:
    return pack_of(random_model("llama", num_hidden_layers=2))


@pytest.fixture(scope="module")
def undisturbed(pack: Pack) -> list[int]:
    async def alone() -> list[int]:
        async with Home(pack, 1) as home:
            return await home.answer(PROMPT, N_TOKENS)

    return asyncio.run(alone())


class Storm:
    """Breaks a home at frames that the seed chooses, and lets devices return."""

    def __init__(self, home: Home, seed: int) -> None:
        self.chance = random.Random(seed)
        self.home = home
        self.n_faults = 0
        self._frames_left = {device: self._next() for device in home.devices[1:]}

    def begin(self) -> None:
        for device in self.home.devices[1:]:
            self._attach(device)

    def after_token(self, n: int) -> None:
        """A device that was lost, that sits out or whose lease has ended may come back."""
        cluster = self.home.user.cluster
        for device in self.home.devices[1:]:
            if self.chance.random() > 0.3:
                continue
            cluster.blamed.pop(device.profile.id, None)
            if self.home.user.profile.id not in device.cluster.ends:
                self.home.join(device)
                self._attach(device)
            elif device.profile.id in cluster.given_back:
                cluster.given_back.remove(device.profile.id)
                device.cluster.coordinator = self.home.user.profile.id
                device.engine.lease_changed()

    def _next(self) -> int:
        return self.chance.randrange(1, 60)

    def _attach(self, device: Device) -> None:
        self.home.end_at(device).drops = lambda header: self._sent(device, header)

    def _sent(self, device: Device, header: Any) -> bool:
        """Whether the frame is dropped: what a rank sends after a fault does not arrive, or too late."""
        self._frames_left[device] -= 1
        if self._frames_left[device] > 0:
            return False
        self._frames_left[device] = self._next()
        self.n_faults += 1
        end, loop = self.home.end_at(device), asyncio.get_running_loop()
        match self.chance.randrange(5):
            case 0:
                loop.call_soon(end.lose, DeviceLostError(f"{device.profile.name} was reset."))
                return self.chance.random() < 0.5
            case 1:  # the lease runs out there, and here it is noticed later
                loop.call_soon(self.home.end_lease, device)
                loop.call_later(self.chance.uniform(0, 0.02), self._notice, device)
                return False
            case 2:
                loop.call_soon(self._fail, device, end)
                return True
            case 3:  # it says no more and is never lost: the watch finds it
                end.drops = lambda header: True
                return True
            case _:
                loop.call_later(self.chance.uniform(0, 0.02), end.lose, DeviceLostError("The link was cut."))
                end.drops = lambda header: True
                return True

    def _notice(self, device: Device) -> None:
        self.home.user.cluster.given_back.add(device.profile.id)
        self.home.user.engine.lease_changed()

    def _fail(self, device: Device, end: End) -> None:
        order = device.engine._worker._machine.order
        if order is not None and not end.closed:
            end.drops = lambda header: False
            end.send(Failed(term=order.plan.term, code="load", reason="its disk broke"))
            self._attach(device)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("rank_watch", "executor", "coordinator"):
        monkeypatch.setattr(f"tpid.engine.{module}.LOOK_S", 0.02)
    monkeypatch.setattr("tpid.engine.worker.TELL_PROGRESS_S", 0.01)
    monkeypatch.setattr("tpid.engine.runner.MAX_FAILURES", 1000)
    monkeypatch.setattr(rank_watch, "SILENT_S", 0.06)


async def survive(pack: Pack, seed: int, undisturbed: list[int]) -> int:
    home = Home(pack, 2 + seed % 3)
    async with asyncio.timeout(60), home:
        storm = Storm(home, seed)
        storm.begin()
        for _ in range(ANSWERS):
            assert await home.answer(PROMPT, N_TOKENS, storm.after_token) == undisturbed
        home.user.engine._coordinator.drop("the storm is over")
        await asyncio.sleep(0.05)
        for device in home.devices[1:]:
            assert device.engine._worker.phase is Phase.IDLE
    return storm.n_faults


@pytest.mark.usefixtures("impatient")
@pytest.mark.timeout(3600)
def test_every_answer_is_the_undisturbed_one(pack: Pack, undisturbed: list[int]) -> None:
    faults = 0
    for seed in range(N_STORMS):
        try:
            faults += asyncio.run(survive(pack, seed, undisturbed))
        except BaseException as error:
            error.add_note(f"storm of seed {seed}")
            raise
    assert faults >= 3 * N_STORMS

"""Storms of faults at any frame of any device, by seed: every answer is the undisturbed one.

`TPID_STORMS=20000` tries as many schedules; the seed that failed is in the test's output.
"""

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.engine.home import Device, End, Home, near_links
from tpid.comm.messages import Failed
from tpid.engine import rank_watch
from tpid.engine.authority import Phase
from tpid.errors import DeviceLostError
from tpid.pack.reader import Pack
from tpid.plan.network import NO_NETWORK

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
        for end in device.cluster.ends.values():
            end.drops = lambda header, end=end: self._sent(device, end)  # type: ignore[misc]

    def _sent(self, device: Device, end: End) -> bool:
        """Whether the frame is dropped: what a rank sends after a fault does not arrive, or too late."""
        self._frames_left[device] -= 1
        if self._frames_left[device] > 0:
            return False
        self._frames_left[device] = self._next()
        self.n_faults += 1
        to_hub = end.peer.id == self.home.user.profile.id
        faults = [self._reset, self._cut, self._lose_lease, self._break_disk, self._silence]
        return self.chance.choice(faults if to_hub else faults[:2])(device, end)

    def _reset(self, device: Device, end: End) -> bool:
        """This link, or with it all that the device has."""
        for one in list(device.cluster.ends.values()) if self.chance.random() < 0.5 else [end]:
            asyncio.get_running_loop().call_soon(one.lose, DeviceLostError(f"{device.profile.name} was reset."))
        return self.chance.random() < 0.5

    def _cut(self, device: Device, end: End) -> bool:
        loop = asyncio.get_running_loop()
        loop.call_later(self.chance.uniform(0, 0.02), end.lose, DeviceLostError("The link was cut."))
        end.drops = lambda header: True
        return True

    def _lose_lease(self, device: Device, end: End) -> bool:
        """It runs out there, and here it is noticed later."""
        loop = asyncio.get_running_loop()
        loop.call_soon(self.home.end_lease, device)
        loop.call_later(self.chance.uniform(0, 0.02), self._notice, device)
        return False

    def _break_disk(self, device: Device, end: End) -> bool:
        asyncio.get_running_loop().call_soon(self._fail, device, end)
        return True

    def _silence(self, device: Device, end: End) -> bool:
        """It says no more and is never lost: the watch finds it."""
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


async def survive(pack: Pack, seed: int, undisturbed: list[int], *, direct: bool) -> int:
    n_devices = 2 + seed % 3
    home = Home(pack, n_devices, network=near_links(n_devices) if direct else NO_NETWORK)
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
def test_every_answer_is_the_undisturbed_one(
    pack: Pack, undisturbed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the star, and by the direct exchange."""
    monkeypatch.setattr("tpid.engine.coordinator._STAR_ONLY_S", 0.0)
    faults = 0
    for seed in range(N_STORMS):
        try:
            faults += asyncio.run(survive(pack, seed, undisturbed, direct=bool(seed % 2)))
        except BaseException as error:
            error.add_note(f"storm of seed {seed}")
            raise
    assert faults >= 3 * N_STORMS

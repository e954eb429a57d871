"""What a request gets where some devices lack units: what can be done without them, and the rest meanwhile."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.engine.home import Device, Home
from tests.unit.plan.conftest import PACK
from tests.unit.plan.conftest import device as device_fixture
from tests.unit.plan.conftest import workload as workload_fixture
from tpid.device import DeviceProfile, HeldUnits, LinkCost
from tpid.engine import ahead
from tpid.engine.ahead import Plans, has_come, plan_now_and_later
from tpid.engine.pack_source import PackSource
from tpid.errors import DiskFullError, TpidError, UnitsError
from tpid.pack.geometry import Share
from tpid.pack.manifest import PackId
from tpid.pack.reader import Pack
from tpid.pack.store import PackStore
from tpid.plan.footprint import Workload
from tpid.plan.network import Network, pair_of
from tpid.plan.partition import PlanRequest, make_plan
from tpid.plan.plan import Plan

device, workload = device_fixture, workload_fixture


@pytest.fixture
def home_of(device: Callable[..., DeviceProfile]) -> tuple[DeviceProfile, DeviceProfile, DeviceProfile]:
    """The first two have the pack, the third can get it."""
    return device(0), device(1), device(2, packs=(), fetches_units=True, disk_free_bytes=10**12)


def request_of(work: Workload, **links: float) -> PlanRequest:
    me, late = (f"{number:064x}" for number in (0, 2))
    link = LinkCost(bytes_s=links.get("bytes_s", 0.0))
    return PlanRequest(1, PackId(PACK), "m", work, "fp32", Network({pair_of(me, late): link}))  # type: ignore[arg-type]


def plans_of(request: PlanRequest, devices: Sequence[DeviceProfile]) -> Plans:
    return plan_now_and_later(request, devices[0], devices[1:], make_plan)


def test_what_comes_soon_is_waited_for(home_of: Sequence[DeviceProfile], workload: Callable[..., Workload]) -> None:
    plans = plans_of(request_of(workload(), bytes_s=1e8), home_of)
    assert plans.later is None
    assert plans.now.world_size == 3


def test_what_takes_long_is_done_without_so_far(
    home_of: Sequence[DeviceProfile], workload: Callable[..., Workload]
) -> None:
    me, other, late = home_of
    request = request_of(workload(), bytes_s=1e6)
    plans = plans_of(request, home_of)
    assert [rank.device for rank in plans.now.ranks] == [me.id, other.id]
    (entry,) = plans.now.left_out
    assert (entry.device, entry.reason[:7]) == (late.id, "it gets")
    assert "of its share from other devices first" in entry.reason
    assert plans.later is not None
    assert plans.later.rank_of(late.id) is not None
    assert plans.late == {late.id}
    assert not has_come(request, plans, me, [other, late])
    share = plans.later.ranks[plans.later.rank_of(late.id) or 0].share
    held = HeldUnits(PACK, (share.attn.start, share.attn.stop), (share.ffn.start, share.ffn.stop), 1)
    here = replace(late, units=(held,))
    assert has_come(request, plans, me, [other, here])
    assert not has_come(request, plans, me, [other])  # it has left
    assert plans_of(request, [me, other, here]).later is None


def test_what_cannot_be_done_without_is_waited_for(
    home_of: Sequence[DeviceProfile], workload: Callable[..., Workload]
) -> None:
    me, _, late = home_of
    small = replace(me, budget_bytes=600_000_000, disk_bytes_s=0.0)
    plans = plans_of(request_of(workload(), bytes_s=1e6), [small, late])
    assert plans.later is None
    assert late.id in {rank.device for rank in plans.now.ranks}


class ScriptedUnits:
    """As much of `tpid.transfer.units.Units` as an engine uses."""

    fetching = None

    def __init__(self, pack: Pack) -> None:
        self.is_busy: Callable[[], bool] = lambda: False
        self.begun: list[tuple[PackId, Share]] = []
        self.got: list[Share] = []
        self.kept: tuple[HeldUnits, ...] = ()
        self.error: TpidError | None = None
        self._pack = pack

    def begin(self, pack: PackId, share: Share, ended: Callable[[], None]) -> None:
        self.begun.append((pack, share))

    async def complete(self, pack: PackId, share: Share, progress: Callable[[int, int], None]) -> Pack:
        self.got.append(share)
        if self.error is not None:
            raise self.error
        return self._pack

    def held(self) -> tuple[HeldUnits, ...]:
        return self.kept

    async def close(self) -> None:
        return None


@pytest.fixture(scope="module")
def pack(random_model: Callable[..., Path], pack_of: Callable[..., Pack]) -> Pack:
    return pack_of(random_model("llama"))


def without_the_pack(home: Home, tmp_path: Path) -> tuple[Device, ScriptedUnits]:
    """The second device lacks it, and can get it."""
    helper = home.devices[1]
    units = ScriptedUnits(home.pack)
    helper.cluster.me = helper.profile = replace(helper.profile, packs=(), fetches_units=True)
    engine: Any = helper.engine
    engine._store = PackStore(tmp_path)
    engine._worker._packs = engine._packs = PackSource(engine._store, units, lambda: None)  # type: ignore[arg-type]
    return helper, units


PROMPT = [5, 17, 301, 44, 9]


def test_a_device_without_the_pack_gets_its_share_and_the_answer_is_the_same(pack: Pack, tmp_path: Path) -> None:
    async def test() -> None:
        async with Home(pack, 1) as alone:
            expected = await alone.answer(PROMPT, 8)
        home = Home(pack, 2)
        _, units = without_the_pack(home, tmp_path)
        async with home:
            assert await home.answer(PROMPT, 8) == expected
            plan = home.user.engine.status().plan
            assert plan is not None
            assert units.got == [plan.ranks[1].share]
            assert units.begun == []

    asyncio.run(test())


@pytest.mark.parametrize("error", [DiskFullError("The disk became full."), UnitsError("Nobody gives them.")])
def test_a_device_that_cannot_get_its_share_is_done_without_and_its_reason_is_told(
    pack: Pack, tmp_path: Path, error: TpidError
) -> None:
    async def test() -> None:
        home = Home(pack, 2)
        helper, units = without_the_pack(home, tmp_path)
        units.error = error
        async with home:
            assert len(await home.answer(PROMPT, 4)) == 4
            plan = home.user.engine.status().plan
            assert plan is not None
            assert plan.world_size == 1
            assert home.user.cluster.blamed == {helper.profile.id: error.message}

    asyncio.run(test())


def test_a_late_device_is_told_what_to_get_and_is_in_the_plan_when_it_has_it(
    pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "WAIT_S", 0.0)

    def plan_of(home: Home) -> Plan:
        plan = home.user.engine.status().plan
        assert plan is not None
        return plan

    async def test() -> None:
        home = Home(pack, 2)
        helper, units = without_the_pack(home, tmp_path)
        async with home:
            first = await home.answer(PROMPT, 4)
            await asyncio.sleep(0.05)
            assert plan_of(home).world_size == 1
            assert "from other devices first" in plan_of(home).left_out[0].reason
            ((id, share),) = units.begun
            assert id == pack.id
            assert await home.answer(PROMPT, 4) == first
            assert len(units.begun) == 1  # the plan still holds
            held = HeldUnits(pack.id, (share.attn.start, share.attn.stop), (share.ffn.start, share.ffn.stop), 1)
            home.user.cluster.ends[helper.profile.id].peer = replace(helper.profile, units=(held,))
            assert await home.answer(PROMPT, 4) == first
            assert plan_of(home).world_size == 2
            assert units.got == [share]

    asyncio.run(test())

"""Devices that have to get units of their share: they take part where their disk holds them."""

from collections.abc import Callable
from dataclasses import replace

from tests.unit.plan.conftest import PACK
from tpid.device import DeviceProfile, HeldUnits
from tpid.pack.geometry import Share, UnitRange
from tpid.pack.manifest import PackId
from tpid.pack.unit_store import KEPT_FREE_BYTES
from tpid.plan.disk import lacks_disk, missing_bytes
from tpid.plan.footprint import Workload
from tpid.plan.partition import PlanRequest, make_plan

SHARE = Share(UnitRange(0, 1), UnitRange(10, 20))
OTHER = "cd" * 32


def held(pack: str, attn: tuple[int, int], ffn: tuple[int, int], size: int = 0) -> tuple[HeldUnits, ...]:
    return (HeldUnits(pack, attn, ffn, size),)


def test_only_what_is_not_there_counts(device: Callable[..., DeviceProfile], workload: Callable[..., Workload]) -> None:
    work, id = workload(), PackId(PACK)
    bare = device(1, packs=(), fetches_units=True)
    attn, ffn = work.attn_unit_packed_bytes, work.ffn_unit_packed_bytes
    assert missing_bytes(id, work, device(1), SHARE) == 0
    assert missing_bytes(id, work, bare, SHARE) == attn + 10 * ffn
    assert missing_bytes(id, work, replace(bare, units=held(PACK, (0, 3), (15, 40))), SHARE) == 5 * ffn
    assert missing_bytes(id, work, replace(bare, units=held(PACK, (1, 3), (20, 40))), SHARE) == attn + 10 * ffn
    assert missing_bytes(id, work, replace(bare, units=held(OTHER, (0, 3), (0, 48))), SHARE) == attn + 10 * ffn


def test_units_of_other_packs_make_room(
    device: Callable[..., DeviceProfile], workload: Callable[..., Workload]
) -> None:
    work, id = workload(), PackId(PACK)
    full = device(1, packs=(), fetches_units=True, disk_free_bytes=KEPT_FREE_BYTES + 1000)
    needed = missing_bytes(id, work, full, SHARE)
    assert lacks_disk(id, work, full, SHARE) is not None
    assert lacks_disk(id, work, replace(full, units=held(OTHER, (0, 1), (0, 1), needed)), SHARE) is None
    assert lacks_disk(id, work, replace(full, disk_free_bytes=KEPT_FREE_BYTES + needed), SHARE) is None


def test_a_plan_has_devices_without_the_pack_and_leaves_out_those_with_a_full_disk(
    device: Callable[..., DeviceProfile], workload: Callable[..., Workload]
) -> None:
    me = device(0)
    empty = device(1, packs=(), fetches_units=True, disk_free_bytes=10**12)
    full = device(2, packs=(), fetches_units=True, disk_free_bytes=10**6)
    older = device(3, packs=())
    plan = make_plan(PlanRequest(1, PackId(PACK), "m", workload(), "fp32"), me, [empty, full, older])
    assert [rank.device for rank in plan.ranks] == [me.id, empty.id]
    reasons = {entry.device: entry.reason for entry in plan.left_out}
    assert reasons.keys() == {full.id, older.id}
    assert "more on its disk, where 0 bytes may be used" in reasons[full.id]
    assert "does not have this model" in reasons[older.id]

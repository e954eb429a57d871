"""What a share takes of the disk where the device has to get units of it from others."""

from tpid.device import DeviceProfile
from tpid.pack.geometry import Share, UnitRange
from tpid.pack.manifest import PackId
from tpid.pack.unit_store import KEPT_FREE_BYTES
from tpid.plan.footprint import Workload
from tpid.size import shown_size


def missing_bytes(pack: PackId, work: Workload, device: DeviceProfile, share: Share) -> int:
    """Of the share, what is not on the device: 0 where it has the pack."""
    if pack in device.packs:
        return 0
    attn, ffn = next(((held.attn, held.ffn) for held in device.units if held.pack == pack), ((0, 0), (0, 0)))
    n_attn, n_ffn = _beyond(share.attn, attn), _beyond(share.ffn, ffn)
    return n_attn * work.attn_unit_packed_bytes + n_ffn * work.ffn_unit_packed_bytes


def lacks_disk(pack: PackId, work: Workload, device: DeviceProfile, share: Share) -> str | None:
    """Why the share cannot be brought to the device; None where it can.

    Units of other packs make room: they go where it is needed.
    """
    needed = missing_bytes(pack, work, device, share)
    others = sum(held.size_bytes for held in device.units if held.pack != pack)
    room = max(device.disk_free_bytes - KEPT_FREE_BYTES, 0) + others
    if needed <= room:
        return None
    return f"its share needs {shown_size(needed)} more on its disk, where {shown_size(room)} may be used for it"


def _beyond(units: UnitRange, there: tuple[int, int]) -> int:
    """How many of `units` are not among those that are there."""
    return len(units) - max(min(units.stop, there[1]) - max(units.start, there[0]), 0)

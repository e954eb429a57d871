"""Which plan a request gets now, where some devices lack units: it does not wait long for what it can do without.

The best plan may have devices that lack much of their share. Where the others hold the model without them, they do so
now, and these devices get their units meanwhile: they are in a plan as soon as they have them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from tpid.device import DeviceId, DeviceProfile
from tpid.errors import MemoryPlanError
from tpid.plan.disk import missing_bytes
from tpid.plan.partition import PlanRequest
from tpid.plan.plan import LeftOut, Plan
from tpid.size import shown_size

WAIT_S: Final = 5.0  # a request waits for units that come within this
UNKNOWN_BYTES_S: Final = 10e6  # of a link that was not measured: one of 100 Mbit/s


Search: TypeAlias = Callable[[PlanRequest, DeviceProfile, Sequence[DeviceProfile]], Plan]


@dataclass(frozen=True, slots=True)
class Plans:
    """`later` has the devices `late` too, which lack units for it so far; None where nobody is late."""

    now: Plan
    later: Plan | None = None
    late: frozenset[DeviceId] = frozenset()


def plan_now_and_later(
    request: PlanRequest, me: DeviceProfile, others: Sequence[DeviceProfile], search: Search
) -> Plans:
    """By `search`, which makes one plan. Takes a moment: not for the event loop. Raises MemoryPlanError."""
    later = search(request, me, others)
    late: dict[DeviceId, int] = {}
    now = later
    while lacking := _lacking(request, now, me, others):
        try:
            now = search(request, me, [device for device in others if device.id not in {*late, *lacking}])
        except MemoryPlanError:  # it cannot do without them
            return Plans(later)
        late |= lacking
    if not late:
        return Plans(now)
    left_out = [
        LeftOut(device.id, device.name, f"it gets {shown_size(late[device.id])} of its share from other devices first")
        for device in others
        if device.id in late
    ]
    return Plans(replace(now, left_out=(*now.left_out, *left_out)), later, frozenset(late))


def has_come(request: PlanRequest, plans: Plans, me: DeviceProfile, others: Sequence[DeviceProfile]) -> bool:
    """Whether one that was late could be in a plan now."""
    if plans.later is None:
        return False
    here = plans.late & {device.id for device in others}
    return bool(here - _lacking(request, plans.later, me, others).keys())


def _lacking(
    request: PlanRequest, plan: Plan, me: DeviceProfile, others: Sequence[DeviceProfile]
) -> Mapping[DeviceId, int]:
    """The bytes that each rank lacks which would have to be waited for too long."""
    devices = {device.id: device for device in others}
    found = {}
    for rank in plan.ranks[1:]:
        if rank.device in devices:
            n_bytes = missing_bytes(request.pack, request.work, devices[rank.device], rank.share)
            bytes_s = request.network.between(me.id, rank.device).bytes_s or UNKNOWN_BYTES_S
            if n_bytes / bytes_s > WAIT_S:
                found[rank.device] = n_bytes
    return found

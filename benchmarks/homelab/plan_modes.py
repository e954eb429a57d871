"""Plans that a daemon would not make by itself, to compare its own with: what a file says, anew for each request.

`chosen` is the daemon's own plan, `equal` gives all devices the same share whatever they are, `alone` has one device.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tpid.device import DeviceProfile
from tpid.engine import coordinator, planning
from tpid.plan.network import NO_NETWORK
from tpid.plan.partition import PlanRequest
from tpid.plan.plan import Plan

MODES = ("chosen", "equal", "alone")
_SPEED_BYTES_S = 1e10


def install(file: Path) -> None:
    """In a daemon, before it starts."""
    planned_by: list[str] = []
    still_good = coordinator.Coordinator._still_good

    def is_still_good(self: coordinator.Coordinator, *arguments: Any) -> bool:
        return planned_by[-1:] == [_mode(file)] and still_good(self, *arguments)

    def plan(request: PlanRequest, me: DeviceProfile, others: Sequence[DeviceProfile]) -> Plan:
        mode = _mode(file)
        planned_by.append(mode)
        if mode == "alone":
            return planning.plan_in_time(request, me, ())
        if mode == "equal":
            same = [replace(device, read_bytes_s=_SPEED_BYTES_S) for device in (me, *others)]
            return planning.plan_in_time(replace(request, network=NO_NETWORK), same[0], same[1:])
        return planning.plan_in_time(request, me, others)

    coordinator.Coordinator._still_good = is_still_good  # type: ignore[method-assign, assignment]
    coordinator.plan_in_time = plan  # type: ignore[attr-defined]


def _mode(file: Path) -> str:
    return file.read_text().strip() if file.exists() else "chosen"

"""Why a model cannot be planned: which device, how much is missing, and what would fit."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

from tpid.device import DeviceProfile
from tpid.errors import MemoryPlanError
from tpid.plan.division import fits
from tpid.plan.footprint import Workload
from tpid.size import shown_size

CONTEXT_STEP_TOKENS = 16
_STEP_BYTES = 1_000_000


def does_not_fit(model: str, work: Workload, devices: Sequence[DeviceProfile]) -> MemoryPlanError:
    """The error where no division fits the budgets, with numbers that would."""
    coordinator = devices[0]
    missing = _missing_bytes(work, devices)
    context = _fitting_context_tokens(work, devices)
    budgets = ", ".join(f"{device.name} {shown_size(device.budget_bytes)}" for device in devices)
    where = "its memory budget is" if len(devices) == 1 else f"the memory budgets of these {len(devices)} devices are"
    advice = [f'Set memory_budget = "{-(-(coordinator.budget_bytes + missing) // _STEP_BYTES)}M" on {coordinator.name}']
    if context:
        advice.append(f"context_tokens = {context}")
    return MemoryPlanError(
        f"{model} with {work.context_tokens} tokens of context does not fit, even where all that can streams from "
        f"disk: {shown_size(missing)} are missing on {coordinator.name}; {where}: {budgets}.",
        hint=", or ".join([*advice, "add a device."]),
    )


def _missing_bytes(work: Workload, devices: Sequence[DeviceProfile]) -> int:
    """What the coordinator's budget would have to grow by, to a MB."""
    coordinator, *others = devices

    def enough(steps: int) -> bool:
        larger = replace(coordinator, budget_bytes=coordinator.budget_bytes + steps * _STEP_BYTES)
        return fits(work, [larger, *others])

    steps = 1
    while not enough(steps):
        steps *= 2
    return _STEP_BYTES * bisect_left(range(steps), True, key=enough)


def _fitting_context_tokens(work: Workload, devices: Sequence[DeviceProfile]) -> int:
    """The longest context that fits, in steps of 16; 0 where none does."""

    def too_long(steps: int) -> bool:
        context = max(steps * CONTEXT_STEP_TOKENS, 1)
        shorter = replace(work, context_tokens=context, max_pass_tokens=min(work.max_pass_tokens, context))
        return not fits(shorter, devices)

    steps = range(work.context_tokens // CONTEXT_STEP_TOKENS + 1)
    return CONTEXT_STEP_TOKENS * max(bisect_left(steps, True, key=too_long) - 1, 0)

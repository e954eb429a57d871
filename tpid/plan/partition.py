"""Making a plan: who takes part, how many tokens a pass has, and who computes what."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from tpid.device import DeviceProfile
from tpid.pack.manifest import PackId
from tpid.plan.division import Division, divide
from tpid.plan.footprint import BACKENDS, Workload, least_bytes, share_bytes
from tpid.plan.plan import LeftOut, Plan, Rank
from tpid.plan.unfit import does_not_fit
from tpid.size import shown_size

# What all-resident weights prefill with well: longer passes take memory and win nothing.
RESIDENT_PASS_TOKENS = 512
LEAST_RESIDENT_PASS_TOKENS = 64
# Passes that are tried where weights stream: each walk over the disk serves all tokens of the pass.
PASS_TOKENS = (4096, 3072, 2048, 1536, 1024, 768, 512, 384, 256, 192, 128, 96, 64, 48, 32, 16)
# What a token may take longer so that a prompt takes fewer walks: nothing for a model many times the memory, whose
# activations hardly count, and a limit for one that is nearly resident and prefills fast in any case.
PASS_COST = 1.10


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What a plan is wanted for."""

    term: int
    pack: PackId
    model: str
    work: Workload  # `max_pass_tokens` is the most that is wanted; the plan may have fewer
    wire_dtype: str


def make_plan(request: PlanRequest, coordinator: DeviceProfile, others: Sequence[DeviceProfile]) -> Plan:
    """The fastest plan over the coordinator and those of `others` that can take part.

    Raises MemoryPlanError where they cannot hold the model together.
    """
    candidates = sorted(others, key=lambda device: device.id)
    refused = {device.id: reason for device in candidates if (reason := _unfit(request, device)) is not None}
    devices = [coordinator, *(device for device in candidates if device.id not in refused)]
    work, division = _choose_pass(replace(request.work, n_workers=len(devices) - 1), devices)
    if division is None:
        raise does_not_fit(request.model, work, devices)

    left_out = [LeftOut(device.id, device.name, refused[device.id]) for device in candidates if device.id in refused]
    ranks = []
    for device, share in zip(devices, division.shares, strict=True):
        if device is coordinator or len(share.attn) or len(share.ffn):
            resident = share_bytes(work, device.backend, share, coordinator=device is coordinator)
            ranks.append(Rank(device.id, device.name, share, min(resident, device.budget_bytes)))
        else:
            left_out.append(LeftOut(device.id, device.name, _why_nothing(work, device)))
    return Plan(
        term=request.term,
        pack=request.pack,
        model=request.model,
        ranks=tuple(ranks),
        left_out=tuple(left_out),
        context_tokens=work.context_tokens,
        max_pass_tokens=work.max_pass_tokens,
        n_slots=work.n_slots,
        wire_dtype=request.wire_dtype,
    )


def _choose_pass(work: Workload, devices: Sequence[DeviceProfile]) -> tuple[Workload, Division | None]:
    """The pass that prefills best, and its division; None, with the shortest pass, where nothing fits.

    Where all weights are resident, a pass that keeps them so. Where some stream, the longest that makes decode
    but a little slower than the shortest does, because its buffers take the place of resident weights.
    """
    choices = list(_pass_choices(work))
    resident = [choice for choice in choices if choice.max_pass_tokens <= RESIDENT_PASS_TOKENS]
    n_long = sum(choice.max_pass_tokens > LEAST_RESIDENT_PASS_TOKENS for choice in resident)
    silent = _longest(resident[: n_long + 1], devices, lambda division: division.stream_s == 0)
    if silent is not None:
        return silent
    shortest = choices[-1]
    fastest = divide(shortest, devices)
    if fastest is None:
        return shortest, None
    longer = _longest(choices[:-1], devices, lambda division: division.tpot_s <= PASS_COST * fastest.tpot_s)
    return longer or (shortest, fastest)


def _longest(
    choices: Sequence[Workload], devices: Sequence[DeviceProfile], good: Callable[[Division], bool]
) -> tuple[Workload, Division] | None:
    """The first of `choices` with a good division. A shorter pass needs less memory, so those behind it have one too:
    few need to be looked at."""
    found: tuple[Workload, Division] | None = None
    low, high = 0, len(choices) - 1
    middle = high  # first whether there is any
    while low <= high:
        division = divide(choices[middle], devices)
        if division is not None and good(division):
            found, high = (choices[middle], division), middle - 1
        else:
            low = middle + 1
        middle = (low + high) // 2
    return found


def _pass_choices(work: Workload) -> Iterator[Workload]:
    """Longest first; not longer than the context."""
    most = min(work.max_pass_tokens, work.context_tokens)
    yield replace(work, max_pass_tokens=most)
    for tokens in PASS_TOKENS:
        if tokens < most:
            yield replace(work, max_pass_tokens=tokens)


def _unfit(request: PlanRequest, device: DeviceProfile) -> str | None:
    if request.pack not in device.packs:
        return f"it does not have this model: import it there (tpictl import) or share models_dir ({request.model})"
    if device.backend not in BACKENDS:
        return f"its backend {device.backend} is unknown to the coordinator"
    return None


def _why_nothing(work: Workload, device: DeviceProfile) -> str:
    least = min(least_bytes(work, device.backend, *units, coordinator=False) for units in ((0, 1), (1, 0)))
    if device.budget_bytes < least:
        return f"its memory budget of {shown_size(device.budget_bytes)} is below the {shown_size(least)} of any share"
    return "beside the others it is too slow for a part of the model"

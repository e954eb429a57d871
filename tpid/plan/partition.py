"""Making a plan: who takes part, how many tokens a pass has, and who computes what."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tpid.device import DeviceId, DeviceProfile
from tpid.pack.manifest import PackId
from tpid.plan.choice import Choice, choose_devices, with_device
from tpid.plan.disk import lacks_disk
from tpid.plan.division import Division, StreamTables, divide
from tpid.plan.footprint import BACKENDS, Workload, least_bytes, share_bytes
from tpid.plan.network import ALLREDUCES_PER_LAYER, NO_NETWORK, Exchanges, Network
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
MOST_DIRECT = 16  # tokens of a pass by the direct exchange: decode and a few guesses, so that its slots stay small


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What a plan is wanted for."""

    term: int
    pack: PackId
    model: str
    work: Workload  # `max_pass_tokens` is the most that is wanted; the plan may have fewer
    wire_dtype: str
    network: Network = NO_NETWORK
    direct: bool = True  # whether passes may go by the direct exchange
    use_all: bool = False  # whether devices take part that make a token slower

    @property
    def exchanges(self) -> Exchanges:
        return Exchanges(self.work.spec.n_layers, self.work.wire_row_bytes, self.direct)

    def link_s(self, devices: Sequence[DeviceProfile]) -> float:
        """What the exchanges of a token between `devices` take, the first of them coordinating."""
        return self.exchanges.token_s(self.network, [device.id for device in devices])


def make_plan(
    request: PlanRequest,
    coordinator: DeviceProfile,
    others: Sequence[DeviceProfile],
    *,
    stop: Callable[[], bool] = lambda: False,
) -> Plan:
    """The fastest plan over the coordinator and those of `others` that can take part, and that make it faster.

    Once `stop` says so, the best that was found. Raises MemoryPlanError where they cannot hold the model together.
    """
    candidates = sorted(others, key=lambda device: device.id)
    refused = {device.id: reason for device in candidates if (reason := _unfit(request, device)) is not None}
    devices = {device.id: device for device in candidates}
    while True:
        plan = _plan_without(refused, request, coordinator, candidates, stop)
        full = {
            rank.device: reason
            for rank in plan.ranks[1:]
            if (reason := lacks_disk(request.pack, request.work, devices[rank.device], rank.share)) is not None
        }
        if not full:
            return plan
        refused |= full


def _plan_without(
    refused: Mapping[DeviceId, str],
    request: PlanRequest,
    coordinator: DeviceProfile,
    candidates: Sequence[DeviceProfile],
    stop: Callable[[], bool],
) -> Plan:
    """The fastest plan over all that are not `refused`."""
    able = [coordinator, *(device for device in candidates if device.id not in refused)]
    searched = replace(_shortest_pass(request.work), n_workers=len(able) - 1)
    tables = StreamTables(searched)
    choice = None
    if not request.use_all:
        choice = choose_devices(searched, able, request.link_s, tables=tables, stop=stop)
    devices = choice.devices if choice is not None else tuple(able)
    wanted = replace(request.work, n_workers=len(devices) - 1)
    work, division = _choose_pass(wanted, devices, request.link_s(devices), stop)
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
    for device in able:
        if choice is not None and device not in devices:
            division = with_device(searched, choice, device, request.link_s, tables)
            reason = _why_not_chosen(request, searched, choice, device, division)
            left_out.append(LeftOut(device.id, device.name, reason))
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
        direct_tokens=request.exchanges.direct_tokens(request.network, [rank.device for rank in ranks], MOST_DIRECT),
    )


def _choose_pass(
    work: Workload, devices: Sequence[DeviceProfile], link_s: float, stop: Callable[[], bool]
) -> tuple[Workload, Division | None]:
    """The pass that prefills best, and its division; None, with the shortest pass, where nothing fits.

    Where all weights are resident, a pass that keeps them so. Where some stream, the longest that makes decode
    but a little slower than the shortest does, because its buffers take the place of resident weights.
    """
    *choices, shortest = _pass_choices(work)
    fastest = divide(shortest, devices, link_s=link_s)
    if fastest is None:
        return shortest, None
    if fastest.stream_s == 0:
        for choice in choices:
            if LEAST_RESIDENT_PASS_TOKENS <= choice.max_pass_tokens <= RESIDENT_PASS_TOKENS:
                division = divide(choice, devices, link_s=link_s)
                if division is not None and division.stream_s == 0:
                    return choice, division
    good = {len(choices): fastest}  # by place among the choices

    def is_good(place: int) -> bool:
        division = None if stop() else divide(choices[place], devices, link_s=link_s)
        if division is None or division.tpot_s > PASS_COST * fastest.tpot_s:
            return False
        good[place] = division
        return True

    longest = bisect_left(range(len(choices)), True, key=is_good)  # the longer a pass, the slower a token
    return [*choices, shortest][longest], good[longest]


def _shortest_pass(work: Workload) -> Workload:
    """The pass that leaves most memory for weights."""
    return [*_pass_choices(work)][-1]


def _pass_choices(work: Workload) -> Iterator[Workload]:
    """Longest first; not longer than the context."""
    most = min(work.max_pass_tokens, work.context_tokens)
    yield replace(work, max_pass_tokens=most)
    for tokens in PASS_TOKENS:
        if tokens < most:
            yield replace(work, max_pass_tokens=tokens)


def _unfit(request: PlanRequest, device: DeviceProfile) -> str | None:
    if request.pack not in device.packs and not device.fetches_units:
        return f"it does not have this model: import it there (tpictl import) or set fetch_units ({request.model})"
    if device.backend not in BACKENDS:
        return f"its backend {device.backend} is unknown to the coordinator"
    return None


def _why_not_chosen(
    request: PlanRequest, work: Workload, choice: Choice, device: DeviceProfile, division: Division | None
) -> str:
    """What the device would cost, by the `division` that has it too, and why."""
    if division is None or division.tpot_s <= choice.tpot_s:
        return _why_nothing(work, device)
    rtt_s = request.network.between(choice.devices[0].id, device.id).rtt_s
    n_exchanges = ALLREDUCES_PER_LAYER * work.spec.n_layers
    devices = [*(chosen.id for chosen in choice.devices), device.id]
    is_direct = request.exchanges.direct_tokens(request.network, devices, 1) > 0
    way = f"there takes {rtt_s / 2 * 1e3:.2f}" if is_direct else f"there and back takes {rtt_s * 1e3:.2f}"
    return (
        f"with it a token would take {division.tpot_s * 1e3:.1f} ms instead of {choice.tpot_s * 1e3:.1f} ms: a message "
        f"{way} ms, and a token needs {n_exchanges} exchanges"
    )


def _why_nothing(work: Workload, device: DeviceProfile) -> str:
    least = min(least_bytes(work, device.backend, *units, coordinator=False) for units in ((0, 1), (1, 0)))
    if device.budget_bytes < least:
        return f"its memory budget of {shown_size(device.budget_bytes)} is below the {shown_size(least)} of any share"
    return "beside the others it is too slow for a part of the model"

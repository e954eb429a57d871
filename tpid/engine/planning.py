"""From a pack and the devices that are there to a plan, and to what it promises."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tpid.comm.wire_dtype import WireDtype, wire_bytes
from tpid.device import DeviceId, DeviceProfile
from tpid.engine.ahead import plan_now_and_later
from tpid.engine.cycle import cycle_within
from tpid.engine.settings import EngineSettings
from tpid.memory.residency import plan_residency
from tpid.pack.reader import Pack
from tpid.plan.cost import Residency
from tpid.plan.footprint import Workload, weight_room_bytes, workload_of
from tpid.plan.network import Network
from tpid.plan.partition import PlanRequest, make_plan
from tpid.plan.plan import Plan
from tpid.plan.predict import Forecast, forecast

log = logging.getLogger(__name__)

# Of the prompt whose TTFT is predicted: what one walk over the disk is to serve.
FORECAST_PROMPT_TOKENS = 2048
SEARCH_S = 0.6  # for the search of a plan: with what follows it, a second at most


@dataclass(frozen=True, slots=True)
class Preview:
    """What would be loaded, and how fast it would be."""

    plan: Plan
    forecast: Forecast


def plan_request(pack: Pack, settings: EngineSettings, term: int, network: Network) -> PlanRequest:
    wire_dtype = WireDtype(settings.wire_dtype)
    if not wire_dtype.accepts(pack.spec.hidden_size):
        log.warning("wire_dtype_unfit dtype=%s hidden_size=%d instead=fp32", wire_dtype, pack.spec.hidden_size)
        wire_dtype = WireDtype.FP32
    work = workload_of(
        pack.manifest,
        context_tokens=min(pack.spec.context_tokens, settings.context_tokens),
        n_slots=1,
        max_pass_tokens=settings.max_pass_tokens,
        tokenizer_bytes=pack.tokenizer_size_bytes,
        wire_row_bytes=wire_bytes(wire_dtype, 1, pack.spec.hidden_size),
    )
    return PlanRequest(term, pack.id, pack.name, work, wire_dtype, network, use_all=settings.use_all_devices)


def plan_in_time(request: PlanRequest, me: DeviceProfile, others: Sequence[DeviceProfile]) -> Plan:
    """The fastest plan, or the best that `SEARCH_S` is enough for. Not for the event loop. Raises MemoryPlanError."""
    end_s = time.perf_counter() + SEARCH_S
    return make_plan(request, me, others, stop=lambda: time.perf_counter() > end_s)


def planned_work(pack: Pack, plan: Plan) -> Workload:
    """What a rank of `plan` counts its memory by; the same on every device."""
    return workload_of(
        pack.manifest,
        context_tokens=plan.context_tokens,
        n_slots=plan.n_slots,
        max_pass_tokens=plan.max_pass_tokens,
        tokenizer_bytes=pack.tokenizer_size_bytes,
        n_workers=plan.world_size - 1,
        wire_row_bytes=wire_bytes(WireDtype(plan.wire_dtype), 1, pack.spec.hidden_size),
    )


def preview(
    pack: Pack,
    settings: EngineSettings,
    me: DeviceProfile,
    others: Sequence[DeviceProfile],
    network: Network,
) -> Preview:
    """The plan that a request would get now; nothing is loaded. Takes a moment: not for the event loop.

    Raises MemoryPlanError.
    """
    plan = plan_now_and_later(plan_request(pack, settings, 0, network), me, others, plan_in_time).now
    work = planned_work(pack, plan)
    devices = {device.id: device for device in (me, *others)}
    residencies = [_residency(pack, work, plan, rank, devices) for rank in range(plan.world_size)]
    prompt_tokens = min(FORECAST_PROMPT_TOKENS, plan.context_tokens)
    return Preview(plan, forecast(work, plan, devices, residencies, network=network, prompt_tokens=prompt_tokens))


def with_memory(device: DeviceProfile, memory_bytes: int | None) -> DeviceProfile:
    """As if its budget were another."""
    return device if memory_bytes is None else replace(device, budget_bytes=memory_bytes)


def _residency(
    pack: Pack, work: Workload, plan: Plan, rank: int, devices: Mapping[DeviceId, DeviceProfile]
) -> Residency:
    """As the rank itself will decide. Raises MemoryPlanError or LoadError."""
    part = plan.ranks[rank]
    device = devices[part.device]
    room = weight_room_bytes(work, device.backend, part.share, part.memory_bytes, coordinator=rank == 0)
    parts = cycle_within(pack, part.share, device, room, coordinator=rank == 0)
    items = [part.item(device) for part in parts]
    found = plan_residency(items, room, device.disk_bytes_s)
    return Residency(found.resident_bytes, found.streamed_bytes, found.window_bytes + found.unpack_bytes)

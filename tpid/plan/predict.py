"""What a plan promises before anything is loaded: TPOT, TTFT, and what limits them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tpid.device import DeviceId, DeviceProfile
from tpid.plan.cost import Residency, attn_unit_s, ffn_unit_s, head_s
from tpid.plan.footprint import Workload, activation_bytes, fixed_bytes, kv_bytes
from tpid.plan.network import Exchanges, Network
from tpid.plan.plan import Plan


class Limit(StrEnum):
    """What a token waits for."""

    DISK = "disk"
    MEMORY = "memory bandwidth"  # decode reads each weight once: it is as fast as memory is
    COMPUTE = "compute"  # prefill: multiplications
    LINK = "link"


@dataclass(frozen=True, slots=True)
class Bottleneck:
    limit: Limit
    device: str | None  # its name; None for the link between all of them


@dataclass(frozen=True, slots=True)
class RankForecast:
    """One rank's memory and times."""

    device: DeviceId
    name: str
    backend: str
    budget_bytes: int
    memory_bytes: int  # all that it is expected to take
    base_bytes: int  # interpreter, libraries and text
    kv_bytes: int
    activation_bytes: int
    resident_bytes: int  # weights that stay in memory
    window_bytes: int  # memory through which the others stream
    streamed_bytes: int  # read from disk in each pass
    compute_s: float  # of a token, all its blocks and the head
    disk_s: float  # of a pass
    disk_bytes_s: float  # as it was measured


@dataclass(frozen=True, slots=True)
class Forecast:
    tpot_s: float
    tpot_limit: Bottleneck
    ttft_s: float  # of a prompt of `prompt_tokens` that is not cached
    ttft_limit: Bottleneck
    prompt_tokens: int
    walks: int  # over the disk, for that prompt
    link_s: float  # of a token: all its allreduces
    ranks: tuple[RankForecast, ...]


def forecast(
    work: Workload,
    plan: Plan,
    devices: Mapping[DeviceId, DeviceProfile],
    residencies: Sequence[Residency],
    *,
    network: Network,
    prompt_tokens: int,
) -> Forecast:
    """`work` as the plan has it; `residencies` by rank."""
    profiles = [devices[rank.device] for rank in plan.ranks]
    ranks = tuple(
        _rank_forecast(work, plan, number, profiles[number], residency) for number, residency in enumerate(residencies)
    )
    link_s = _link_s(work, plan, network, 1)
    compute_s, slowest = _decode_s(work, plan, profiles)
    disk_s, disk = max((rank.disk_s, rank.name) for rank in ranks)
    tpot_s = max(compute_s + link_s, disk_s)
    walks = -(-prompt_tokens // plan.max_pass_tokens)
    prefill_s, prefiller = _prefill_s(work, plan, profiles, prompt_tokens)
    prefill_link_s = (walks - 1) * _link_s(work, plan, network, plan.max_pass_tokens) + _link_s(
        work, plan, network, prompt_tokens - (walks - 1) * plan.max_pass_tokens
    )
    ttft_s = max(prefill_s + prefill_link_s, walks * disk_s)
    return Forecast(
        tpot_s=tpot_s,
        tpot_limit=_limit(disk_s, disk, link_s, compute_s, Bottleneck(Limit.MEMORY, slowest)),
        ttft_s=ttft_s,
        ttft_limit=_limit(walks * disk_s, disk, prefill_link_s, prefill_s, Bottleneck(Limit.COMPUTE, prefiller)),
        prompt_tokens=prompt_tokens,
        walks=walks,
        link_s=link_s,
        ranks=ranks,
    )


def _limit(disk_s: float, disk: str, link_s: float, compute_s: float, computes: Bottleneck) -> Bottleneck:
    """Compute and allreduces follow each other, the disk reads beside them."""
    if disk_s > compute_s + link_s:
        return Bottleneck(Limit.DISK, disk)
    return Bottleneck(Limit.LINK, None) if link_s > compute_s else computes


def _link_s(work: Workload, plan: Plan, network: Network, n_tokens: int) -> float:
    """Of all exchanges of a pass."""
    exchanges = Exchanges(work.spec.n_layers, work.wire_row_bytes)
    return exchanges.pass_s(network, [rank.device for rank in plan.ranks], n_tokens, plan.direct_tokens)


def _rank_forecast(
    work: Workload, plan: Plan, number: int, device: DeviceProfile, residency: Residency
) -> RankForecast:
    share, coordinator = plan.ranks[number].share, number == 0
    units = len(share.attn), len(share.ffn)
    fixed = fixed_bytes(work, device.backend, *units, coordinator=coordinator)
    cache = kv_bytes(work, device.backend, len(share.attn))
    activations = activation_bytes(work, device.backend, *units, coordinator=coordinator)
    compute_s = units[0] * attn_unit_s(work, device) + units[1] * ffn_unit_s(work, device)
    return RankForecast(
        device=device.id,
        name=plan.ranks[number].name,
        backend=device.backend,
        budget_bytes=device.budget_bytes,
        memory_bytes=fixed + residency.resident_bytes + residency.window_bytes,
        base_bytes=fixed - cache - activations,
        kv_bytes=cache,
        activation_bytes=activations,
        resident_bytes=residency.resident_bytes,
        window_bytes=residency.window_bytes,
        streamed_bytes=residency.streamed_bytes,
        compute_s=compute_s + (head_s(work, device) if coordinator else 0.0),
        disk_s=residency.streamed_bytes / device.disk_bytes_s if residency.streamed_bytes else 0.0,
        disk_bytes_s=device.disk_bytes_s,
    )


def _decode_s(work: Workload, plan: Plan, profiles: Sequence[DeviceProfile]) -> tuple[float, str]:
    """The compute of a token, and the rank that most of it waits for."""
    attn = [(len(rank.share.attn) * attn_unit_s(work, d), d.name) for rank, d in zip(plan.ranks, profiles, strict=True)]
    ffn = [(len(rank.share.ffn) * ffn_unit_s(work, d), d.name) for rank, d in zip(plan.ranks, profiles, strict=True)]
    slowest_attn, slowest_ffn = max(attn), max(ffn)
    head = head_s(work, profiles[0])
    return slowest_attn[0] + slowest_ffn[0] + head, max(slowest_attn, slowest_ffn)[1]


def _prefill_s(work: Workload, plan: Plan, profiles: Sequence[DeviceProfile], prompt_tokens: int) -> tuple[float, str]:
    """The compute of a whole prompt, and the slowest rank. The head takes one row."""
    times = []
    for rank, device in zip(plan.ranks, profiles, strict=True):
        layers = len(rank.share.attn) * work.attn_unit_weights + len(rank.share.ffn) * work.ffn_unit_weights
        weights = work.spec.n_layers * layers
        once_s = len(rank.share.attn) * attn_unit_s(work, device) + len(rank.share.ffn) * ffn_unit_s(work, device)
        # Unknown: as decode does it, token by token. At least one reading of the weights in any case.
        flops_s = device.matmul_flops_s
        token_s = 2 * weights / flops_s if flops_s > 0 else once_s
        times.append((max(prompt_tokens * token_s, once_s), device.name))
    slowest_s, name = max(times)
    return slowest_s + head_s(work, profiles[0]), name

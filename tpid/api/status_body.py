"""What GET /tpid/status says, field by field: docs/api.md describes each, and names here are promises."""

import time
from collections.abc import Sequence
from typing import Any, Final

import psutil

from tpid.api.listen_address import TcpState
from tpid.api.progress import described_event, described_stage
from tpid.cluster.status import ClusterStatus, DeviceStatus
from tpid.device import DeviceProfile
from tpid.engine.engine import EngineStatus
from tpid.engine.generation import GenerationStats
from tpid.engine.journal import Away, Journal
from tpid.engine.weight_use import WeightUse
from tpid.engine.work import Work
from tpid.engine.worker import Holding
from tpid.plan.plan import Plan, Rank
from tpid.transfer.fetching import Fetching

SCHEMA: Final = 1  # rises when a field goes, or means something else; new ones may come without


def status_body(
    *,
    engine: EngineStatus,
    cluster: ClusterStatus,
    journal: Journal,
    away: Sequence[Away],
    tcp: TcpState,
    process: psutil.Process,
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "time_s": time.time(),
        "cluster": _cluster(cluster, journal),
        "away": [_away(device) for device in away],
        "events": [described_event(event) for event in journal.events],
        "plan": _plan(engine.plan) if engine.plan is not None else None,
        "weights": {device: _weights(use) for device, use in engine.weights.items()},
        "holding": _holding(engine.holding) if engine.holding is not None else None,
        "fetching": _fetching(engine.fetching) if engine.fetching is not None else None,
        "fetches": {name: {"done_bytes": done, "total_bytes": total} for name, (done, total) in engine.fetches.items()},
        "busy": engine.busy,
        "work": _work(engine.work) if engine.work is not None else None,
        "waiting_requests": engine.waiting_requests,
        "written_tokens": engine.written_tokens,
        "last": _last(engine.last) if engine.last is not None else None,
        "api": _picked(tcp, "address", "secure", "failure"),
        "memory_bytes": process.memory_info().rss,
        "host": {
            "load": psutil.cpu_percent() / 100,
            "available_bytes": psutil.virtual_memory().available,
        },
    }


def _fetching(fetching: Fetching) -> dict[str, Any]:
    return {**_picked(fetching, "pack", "done_bytes", "total_bytes", "sources"), "avoided": dict(fetching.avoided)}


def _cluster(cluster: ClusterStatus, journal: Journal) -> dict[str, Any]:
    return {
        **_picked(cluster, "cluster", "coordinator", "term", "busy", "discovery", "n_other_clusters", "n_unreadable"),
        "devices": [_device(device, journal) for device in cluster.devices],
        "sighted": [_picked(seen, "id", "name", "address", "protocol_version") for seen in cluster.sighted],
        "failed": [_picked(failed, "address", "name", "code", "reason") for failed in cluster.failed],
    }


def _device(device: DeviceStatus, journal: Journal) -> dict[str, Any]:
    since_s = journal.began_s if device.is_me else journal.here_since_s.get(device.profile.id)
    names = ("address", "rtt_s", "is_me", "coordinates", "granted", "sits_out")
    return {"profile": _profile(device.profile), "since_s": since_s, **_picked(device, *names)}


def _profile(profile: DeviceProfile) -> dict[str, Any]:
    who = ("id", "name", "role", "version")
    what = ("ram_bytes", "budget_bytes", "disk_free_bytes", "threads", "backend", "packs", "fetches_units")
    speeds = ("read_bytes_s", "disk_bytes_s", "matmul_flops_s")
    units = [_picked(held, "pack", "attn", "ffn", "size_bytes") for held in profile.units]
    return {**_picked(profile, *who, *what, *speeds), "units": units}


def _away(device: Away) -> dict[str, Any]:
    return {"id": device.device, **_picked(device, "name", "since_s", "reason")}


def _plan(plan: Plan) -> dict[str, Any]:
    names = ("term", "pack", "model", "context_tokens", "max_pass_tokens", "n_slots", "wire_dtype", "direct_tokens")
    return {
        **_picked(plan, *names),
        "ranks": [_rank(rank) for rank in plan.ranks],
        "left_out": [_picked(entry, "device", "name", "reason") for entry in plan.left_out],
    }


def _rank(rank: Rank) -> dict[str, Any]:
    share = {half: _picked(getattr(rank.share, half), "start", "stop") for half in ("attn", "ffn")}
    return {**_picked(rank, "device", "name", "memory_bytes"), "share": share}


def _weights(use: WeightUse) -> dict[str, Any]:
    return _picked(use, "resident_bytes", "window_bytes", "streamed_bytes", "disk_bytes_s", "stall_s")


def _holding(holding: Holding) -> dict[str, Any]:
    return {**_picked(holding, "model", "term", "rank", "coordinator"), "weights": _weights(holding.weights)}


def _work(work: Work) -> dict[str, Any]:
    return {**_picked(work, "model", "came_s"), **described_stage(work.stage)}


def _last(stats: GenerationStats) -> dict[str, Any]:
    counts = ("prompt_tokens", "cached_tokens", "completion_tokens")
    return _picked(stats, *counts, "ttft_s", "decode_s", "queue_s", "tpot_s", "tokens_s")


def _picked(value: object, *names: str) -> dict[str, Any]:
    return {name: getattr(value, name) for name in names}

"""GET /tpid/status: the cluster as this device sees it; GET /health: whether the daemon is up."""

from dataclasses import asdict
from typing import Any

import psutil
from aiohttp import web

from tpid.api.listen_address import TcpState
from tpid.cluster.cluster import Cluster
from tpid.engine.engine import Engine


class StatusEndpoint:
    def __init__(self, engine: Engine, cluster: Cluster) -> None:
        self._engine = engine
        self._cluster = cluster
        self._process = psutil.Process()
        self.tcp = TcpState()  # the daemon sets it once it is known

    async def health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def get(self, request: web.Request) -> web.Response:
        engine = self._engine.status()
        status: dict[str, Any] = {
            "cluster": asdict(self._cluster.status()),
            "plan": asdict(engine.plan) if engine.plan is not None else None,
            "weights": {device: asdict(use) for device, use in engine.weights.items()},
            "holding": asdict(engine.holding) if engine.holding is not None else None,
            "fetching": asdict(engine.fetching) if engine.fetching is not None else None,
            "fetches": {
                name: {"done_bytes": done, "total_bytes": total} for name, (done, total) in engine.fetches.items()
            },
            "busy": engine.busy,
            "waiting_requests": engine.waiting_requests,
            "last": None,
            "api": asdict(self.tcp),
            "memory_bytes": self._process.memory_info().rss,
        }
        if engine.last is not None:
            last = engine.last
            status["last"] = asdict(last) | {"tpot_s": last.tpot_s, "tokens_s": last.tokens_s}
        return web.json_response(status)

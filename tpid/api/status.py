"""GET /tpid/status: the cluster as this device sees it; GET /health: whether the daemon is up."""

import psutil
from aiohttp import web

from tpid.api.listen_address import TcpState
from tpid.api.status_body import status_body
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
        engine, cluster = self._engine.status(), self._cluster.status()
        journal = self._engine.journal
        away = [device for device in journal.away if self._cluster.counts(device.device)]
        body = status_body(
            engine=engine, cluster=cluster, journal=journal, away=away, tcp=self.tcp, process=self._process
        )
        return web.json_response(body)

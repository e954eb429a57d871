"""GET /tpid/doctor: what stands between this device and its home, and what it computes with."""

from collections.abc import Iterator
from dataclasses import asdict

import psutil
from aiohttp import web

from tpid.cluster.cluster import Cluster
from tpid.cluster.doctor import Finding, Level, LinkFacts, examine, worst
from tpid.cluster.firewall.findings import firewall_findings
from tpid.cluster.firewall.look import look_at_firewalls
from tpid.device import DeviceProfile
from tpid.engine.engine import Engine
from tpid.size import shown_size


class DoctorEndpoint:
    def __init__(
        self, engine: Engine, cluster: Cluster, kernels: str, *, allowed_bytes: int, allowed_cores: float
    ) -> None:
        """`kernels` are those in use; what is allowed is what this process could take when it started."""
        self._engine = engine
        self._cluster = cluster
        self._kernels = kernels
        self._allowed_bytes = allowed_bytes
        self._allowed_cores = allowed_cores

    async def get(self, request: web.Request) -> web.Response:
        me = self._cluster.me
        network = self._engine.network
        links = {}
        for device, connection in self._cluster.peers.items():
            cost = network.between(me.id, device)
            links[device] = LinkFacts(cost.rtt_s, cost.bytes_s, connection.meter.jitter_s)
        facts = await self._cluster.facts(links)
        firewalls = await look_at_firewalls(facts.port, [choice.name for choice in facts.choices if choice.addresses])
        is_reached = any(member.seen is not None and member.seen.reached for member in facts.members)
        findings = [
            *examine(facts),
            *firewall_findings(firewalls, facts.port, is_reached=is_reached),
            *self._machine(me),
        ]
        return web.json_response(
            {"device": me.name, "worst": worst(findings), "findings": [asdict(finding) for finding in findings]}
        )

    def _machine(self, me: DeviceProfile) -> Iterator[Finding]:
        if self._kernels == "portable" or me.backend != "native":
            yield Finding(
                Level.WARNING,
                f"computes with {me.backend}, kernels {self._kernels}",
                "slower by several times than the kernels for this processor",
                "install tpid with a C compiler present, or a wheel for this machine",
            )
        else:
            yield Finding(Level.OK, f"kernels {self._kernels}, {me.threads} threads")
        if me.threads > self._allowed_cores:
            yield Finding(
                Level.WARNING,
                f"{me.threads} threads compute, and its cgroup allows {self._allowed_cores:g} cores",
                "they stand still for the rest of each period, and the other devices wait for them",
                f"set threads = {max(1, int(self._allowed_cores))} in tpid.toml, or raise CPUQuota of the service",
            )
        ram_bytes = psutil.virtual_memory().total
        what = f"memory: {shown_size(me.budget_bytes)} for tpid, of {shown_size(ram_bytes)}"
        if me.budget_bytes > self._allowed_bytes:
            yield Finding(
                Level.WARNING,
                f"{what}; only {shown_size(self._allowed_bytes)} were free, or allowed by its cgroup, at the start",
                "the system may end tpid when it fills its budget",
                "set a smaller memory_budget in tpid.toml, or raise MemoryMax of the service",
            )
        else:
            yield Finding(Level.OK, what)
        if me.disk_bytes_s:
            yield Finding(Level.OK, f"disk: {shown_size(int(me.disk_bytes_s))}/s of direct reads")
        else:
            yield Finding(
                Level.NOTE,
                "disk: no direct reads",
                "models larger than the memory cannot stream from there",
                "put models_dir on a local file system such as ext4",
            )

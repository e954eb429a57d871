"""Keeps what this device tells of its speed true: by its decode passes, and where it has none by measuring anew."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from tpid.cluster.cluster import Cluster
from tpid.compute.select import Compute
from tpid.engine.speed_watch import SpeedWatch, differs

log = logging.getLogger(__name__)

LOOK_S: Final = 2.0
# After so long without a pass, and some seconds more by its id, a device measures its cores again: whoever has taken
# them may be gone, and several daemons that started at once on one machine have measured each other's start.
AGAIN_S: Final = 30.0
_APART_S: Final = 30


class SpeedKeeper:
    def __init__(self, cluster: Cluster, compute: Compute, is_idle: Callable[[], bool]) -> None:
        self._cluster = cluster
        self._compute = compute
        self._is_idle = is_idle
        self._watch = SpeedWatch()
        self._measured_last = False  # nothing has been computed since
        self._again_s = AGAIN_S + int(cluster.me.id, 16) % _APART_S

    def decoded(self, read_bytes: int, n_steps: int, compute_s: float) -> None:
        self._measured_last = False
        self._watch.passed(read_bytes, n_steps, compute_s, self._cluster.me.read_bytes_s)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        idle_since_s = loop.time()
        while True:
            await asyncio.sleep(LOOK_S)
            if not self._is_idle():
                idle_since_s = loop.time()
            elif loop.time() - idle_since_s >= self._again_s and not self._measured_last:
                self._measured_last = True
                bytes_s = await asyncio.to_thread(self._compute.measure_read_bytes_s)
                if self._is_idle():
                    self._watch.measured(bytes_s)
            self._tell()

    def _tell(self) -> None:
        me, bytes_s = self._cluster.me, self._watch.estimate_bytes_s
        if bytes_s is not None and differs(bytes_s, me.read_bytes_s):
            log.info("speed gbytes_s=%.2f before=%.2f", bytes_s / 1e9, me.read_bytes_s / 1e9)
            self._cluster.update_profile(replace(me, read_bytes_s=bytes_s))

"""Keeps the listener and mDNS where the network is: interfaces come and go, and so do the reasons to be there."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable

from tpid.cluster.discovery import Discovery
from tpid.cluster.network import LOOK_S, Network
from tpid.comm.listener import Listener

_logger = logging.getLogger(__name__)


class Presence:
    """`has_reason` is whether anybody beyond this machine is to reach this device; `on_moved` is called when it can be
    reached at other addresses than before."""

    def __init__(
        self,
        listener: Listener,
        discovery: Discovery,
        network: Network,
        *,
        has_reason: Callable[[], bool],
        on_moved: Callable[[], None],
    ) -> None:
        self._listener = listener
        self._always = listener.hosts
        self._discovery = discovery
        self._network = network
        self._has_reason = has_reason
        self._on_moved = on_moved
        self._n_opened = 0
        self._unusable: frozenset[str] = frozenset()  # addresses that could not be listened on
        self._look = asyncio.Event()
        self._following = asyncio.Lock()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._follow()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._look.wait()
            self._look.clear()

    def look(self) -> None:
        """There may be a reason now that was none before, or the other way."""
        self._look.set()

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Meanwhile this device can be reached, though it may have nobody there yet."""
        self._n_opened += 1
        try:
            await self._follow()
            yield
        finally:
            self._n_opened -= 1
            self.look()

    async def _follow(self) -> None:
        async with self._following:
            await self._listen_where_wanted()

    async def _listen_where_wanted(self) -> None:
        listener = self._listener
        wanted = self._always.union(self._network.hosts(is_open=self._n_opened > 0 or self._has_reason()))
        if wanted != listener.hosts:  # also where an address was not usable: IPv6's are not at once
            before = listener.hosts
            failed = await listener.listen_on(wanted)
            for host in failed.keys() - self._unusable:
                _logger.warning("not_listening host=%s reason=%s", host, failed[host])
            self._unusable = frozenset(failed)
            if listener.hosts != before:
                _logger.info("listening hosts=%r port=%d", ",".join(sorted(listener.hosts)), listener.port)
                self._on_moved()
        self._discovery.move(self._network.site(sorted(listener.hosts), listener.port))

"""The units of packs on this device: what is here, what others get of it, and what it gets from them."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from tpid.cluster.cluster import Cluster
from tpid.cluster.home import Home
from tpid.comm.dialling import dial_for_units
from tpid.comm.settings import CommSettings
from tpid.comm.tls_channel import TlsChannel
from tpid.device import DeviceId, HeldUnits
from tpid.errors import DeviceLostError, ModelNotFoundError, TpidError, UnitsError
from tpid.pack.geometry import Share
from tpid.pack.manifest import MANIFEST_NAME, PackId
from tpid.pack.reader import Pack
from tpid.pack.store import PackStore
from tpid.pack.unit_store import UnitStore
from tpid.transfer.fetching import Fetcher, Fetching, Progress
from tpid.transfer.giving import Giver, Held

AGAIN_S: Final = 30.0  # until units that nobody gives are asked for once more

log = logging.getLogger(__name__)


class Units:
    """Of a device that belongs to a home: without one there is nobody to trust with it."""

    def __init__(self, store: PackStore, cluster: Cluster, home: Home) -> None:
        self.is_busy: Callable[[], bool] = lambda: False  # whether this device computes now; the engine sets it
        self._packs = store
        self._store = UnitStore(store.directory)
        self._home = home
        self._settings = CommSettings()
        self._fetcher = Fetcher(self._store, lambda: [line.peer for line in cluster.peers.values()], self._dial)
        self._giver = Giver(self._find, lambda id: id in home.members, self._is_busy)
        self._used: frozenset[PackId] = frozenset()  # what was wanted last, and may be computed with
        self._whole: dict[PackId, tuple[Pack, int]] = {}  # whole packs that were asked for, and their manifests' times
        self._turn = asyncio.Lock()  # the fetcher gets one share at a time
        self._begun: asyncio.Task[None] | None = None
        cluster.on_units = self._giver.serve

    @property
    def fetching(self) -> Fetching | None:
        return self._fetcher.fetching

    def begin(self, pack: PackId, share: Share, ended: Callable[[], None]) -> None:
        """Get these units while others compute, in the place of what was begun before; `ended` is called then."""
        before, self._begun = self._begun, None
        if before is not None:
            before.cancel()
        self._begun = asyncio.get_running_loop().create_task(self._get(pack, share, ended), name="units")

    async def complete(self, pack: PackId, share: Share, progress: Progress) -> Pack:
        """A pack with all that a worker with `share` reads, got from other devices where it is not here.

        Raises DiskFullError, UnitsError or PackError.
        """
        await self._end_begun()
        async with self._turn:
            held = await self._fetcher.complete(pack, share, progress)
            self._used = frozenset({pack})
            return held.pack

    def held(self) -> tuple[HeldUnits, ...]:
        """Of packs that are not whole. Looks at the disk: not for the event loop."""
        return tuple(self._store.held())

    async def close(self) -> None:
        await self._end_begun()
        await self._giver.close()

    async def _get(self, pack: PackId, share: Share, ended: Callable[[], None]) -> None:
        try:
            while True:
                try:
                    async with self._turn:
                        await self._fetcher.complete(pack, share, lambda done, total: None, keep=self._used)
                        return
                except UnitsError as error:  # nobody gives it now; what has come stays
                    log.warning("units_not_here pack=%s again_s=%.0f reason=%r", pack[:12], AGAIN_S, str(error))
                await asyncio.sleep(AGAIN_S)
        except TpidError as error:
            log.warning("units_not_here pack=%s reason=%r", pack[:12], str(error))
        except Exception:
            log.exception("units_not_here pack=%s", pack[:12])
        finally:
            ended()

    async def _end_begun(self) -> None:
        """What came so far stays."""
        begun, self._begun = self._begun, None
        if begun is not None:
            begun.cancel()
            await asyncio.wait([begun])

    def _find(self, id: PackId) -> Held | None:
        """Finding a whole pack means reading all manifests, so it is remembered."""
        try:
            if id not in self._whole or self._whole[id][1] != _changed_ns(self._whole[id][0]):
                pack = self._packs.find(id)
                self._whole[id] = pack, _changed_ns(pack)
            return self._whole[id][0], None
        except ModelNotFoundError:
            self._whole.pop(id, None)
        held = self._store.find(id)
        return (held.pack, held.presence) if held is not None else None

    def _is_busy(self) -> bool:
        return self.is_busy()

    async def _dial(self, device: DeviceId) -> TlsChannel:
        endpoints = [(address.host, address.port) for address in self._home.whereabouts.of(device)]
        if not endpoints:
            raise DeviceLostError("where it listens is not known")
        return await dial_for_units(endpoints, self._home, device, self._settings)


def _changed_ns(pack: Pack) -> int:
    """-1 where it is gone."""
    try:
        return (pack.directory / MANIFEST_NAME).stat().st_mtime_ns
    except OSError:
        return -1

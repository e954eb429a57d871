"""Where a worker's pack comes from: its own disk, else from other devices, as far as its share goes."""

import asyncio
from collections.abc import Callable

from tpid.errors import ModelNotFoundError
from tpid.memory.weights import LoadProgress
from tpid.pack.geometry import Share
from tpid.pack.manifest import PackId
from tpid.pack.reader import Pack
from tpid.pack.store import PackStore
from tpid.transfer.units import Units


class PackSource:
    def __init__(self, store: PackStore, units: Units | None, came: Callable[[], None]) -> None:
        """`units`: how units come from other devices; None: not at all. `came` is called when some may have."""
        self.from_devices = False  # whether they come at this moment
        self._store = store
        self._units = units
        self._came = came

    async def pack_for(self, id: PackId, share: Share, progress: LoadProgress) -> Pack:
        """With all that a worker with `share` reads. `progress` is of what comes from other devices.

        Raises ModelNotFoundError, PackError, DiskFullError or UnitsError.
        """
        try:
            return await asyncio.to_thread(self._store.find, id)
        except ModelNotFoundError:
            if self._units is None:
                raise
        self.from_devices = True
        try:
            return await self._units.complete(id, share, progress)
        finally:
            self.from_devices = False
            self._came()

    def begin(self, id: PackId, share: Share) -> None:
        """Get the units of a share that others do without so far."""
        if self._units is not None:
            self._units.begin(id, share, self._came)

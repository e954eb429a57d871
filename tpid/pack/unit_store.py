"""The packs with holes of a device: `.units/ID` in `models_dir`, made by the daemon and removed by it.

The rule of removal: where a share needs room, those packs go that were used longest ago, until there is enough. What a
person imported or pulled is never touched: it lies elsewhere.
"""

import contextlib
import hashlib
import logging
import re
import shutil
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Final

from tpid.device import HeldUnits
from tpid.errors import DiskFullError, PackError
from tpid.pack.geometry import Half
from tpid.pack.holed import HoledPack
from tpid.pack.manifest import MANIFEST_NAME, PackId
from tpid.pack.staging import FREE_SPACE_HINT, write_whole
from tpid.size import shown_size

DIRECTORY_NAME: Final = ".units"
KEPT_FREE_BYTES: Final = 256 << 20  # of the disk, for everything else that writes there

_ID: Final = re.compile(r"[0-9a-f]{64}")

log = logging.getLogger(__name__)


class UnitStore:
    """Looks at the disk: not for the event loop. To be called from any thread."""

    def __init__(self, models_dir: Path) -> None:
        self.directory = models_dir / DIRECTORY_NAME
        self._open: dict[PackId, HoledPack] = {}  # one object a pack, so that its map is one, too
        self._lock = threading.Lock()

    def find(self, id: PackId) -> HoledPack | None:
        """None where there is none, or none that is sound."""
        with self._lock:
            if id in self._open and not (self.directory / id).is_dir():
                del self._open[id]  # a person has removed it
            if id not in self._open and _ID.fullmatch(id):
                with contextlib.suppress(PackError):
                    pack = HoledPack(self.directory / id)
                    if pack.id == id:
                        self._open[id] = pack
            return self._open.get(id)

    def create(self, id: PackId, manifest: bytes) -> HoledPack:
        """A new one, all holes. Raises PackError where `manifest` is not that of this pack, DiskFullError, OSError."""
        if hashlib.sha256(manifest).hexdigest() != id:
            raise PackError(f"What came as the model.json of {id[:12]} is another one.")
        directory = self.directory / id
        with self._lock:
            directory.mkdir(parents=True, exist_ok=True)
            write_whole(directory / MANIFEST_NAME, manifest)
            pack = self._open[id] = HoledPack(directory)
        return pack

    def held(self) -> list[HeldUnits]:
        """What is here of each pack."""
        found = []
        for pack in self._all():
            attn, ffn = (pack.presence.in_every_layer(half) for half in Half)
            ranges = (attn.start, attn.stop), (ffn.start, ffn.stop)
            found.append(HeldUnits(pack.id, *ranges, pack.presence.size_bytes))
        return found

    def free_bytes(self) -> int:
        """What may be written without anything having to go."""
        existing = self.directory if self.directory.exists() else self.directory.parent
        return max(shutil.disk_usage(existing).free - KEPT_FREE_BYTES, 0)

    def make_room(self, n_bytes: int, keep: Collection[PackId]) -> list[PackId]:
        """Have so many bytes free; the packs that went for it. Raises DiskFullError, before anything goes."""
        others = sorted((pack for pack in self._all() if pack.id not in keep), key=lambda pack: pack.used_s)
        free = self.free_bytes()
        if free + sum(pack.presence.size_bytes for pack in others) < n_bytes:
            raise DiskFullError(
                f"The share needs {shown_size(n_bytes)} more on the disk of {self.directory.parent}, where "
                f"{shown_size(free)} may be used.",
                hint=FREE_SPACE_HINT,
            )
        gone = []
        for pack in others:
            if self.free_bytes() >= n_bytes:
                break
            if self._remove(pack):
                gone.append(pack.id)
        return gone

    def _remove(self, pack: HoledPack) -> bool:
        """False where somebody writes into it."""
        try:
            with pack.held():
                size = pack.presence.size_bytes
                shutil.rmtree(pack.pack.directory)
        except (OSError, PackError) as error:
            log.warning("units_not_removed pack=%s reason=%r", pack.id, str(error))
            return False
        with self._lock:
            self._open.pop(pack.id, None)
        log.info("units_removed pack=%s bytes=%d reason='the disk has to hold others'", pack.id, size)
        return True

    def _all(self) -> list[HoledPack]:
        try:
            names = sorted(path.name for path in self.directory.iterdir() if _ID.fullmatch(path.name))
        except OSError:
            return []
        found = (self.find(PackId(name)) for name in names)
        return [pack for pack in found if pack is not None]

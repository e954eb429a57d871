"""What a device tells of its disk: packs, units of others, and room for more."""

import shutil
from pathlib import Path
from typing import Any, Final

from tpid.pack.reader import Pack
from tpid.pack.store import PackStore
from tpid.transfer.units import Units

_STEP_BYTES: Final = 1 << 26  # what is told changes by so much, so that not every file is news for the home


def inventory(store: PackStore, units: Units | None) -> dict[str, Any]:
    """Fields of the device's profile. Looks at the disk: not for the event loop. Raises PackError, OSError."""
    packs = tuple(item.id for item in store.scan() if isinstance(item, Pack))
    held = units.held() if units is not None else ()
    return {"packs": packs, "units": held, "disk_free_bytes": free_disk_bytes(store.directory)}


def free_disk_bytes(directory: Path) -> int:
    """Rounded down."""
    return shutil.disk_usage(directory).free // _STEP_BYTES * _STEP_BYTES

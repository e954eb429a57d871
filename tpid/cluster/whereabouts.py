"""Where the members of the home were reached: kept over restarts, and told to the other members.

So a home finds itself again after a power cut, also where mDNS does not get through; and one `--address` at pairing is
enough for all of its devices. An address is to be tried, not to be believed: who answers there has to prove itself.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final

from tpid.cluster.address import Address, parse_address
from tpid.cluster.identity.private_file import read_private, replace_private
from tpid.device import DeviceId
from tpid.errors import ConfigError

FILE_NAME: Final = "addresses.json"
MAX_ADDRESSES: Final = 4  # of a device, the newest first
MAX_DEVICES: Final = 64

_WHAT: Final = "the addresses of the home's devices"
_MAX_FILE_BYTES: Final = 256 * 1024

_logger = logging.getLogger(__name__)


class Whereabouts:
    """`on_change` is called when there is something to tell, `on_unsaved` when there is something to keep."""

    def __init__(
        self,
        known: Mapping[DeviceId, tuple[Address, ...]] | None = None,
        seen: Mapping[DeviceId, float] | None = None,
    ) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self.on_unsaved: Callable[[], None] = lambda: None
        self._known = dict(known or {})
        self._seen = dict(seen or {})

    def of(self, device: DeviceId) -> tuple[Address, ...]:
        return self._known.get(device, ())

    def all(self) -> Mapping[DeviceId, tuple[Address, ...]]:
        return self._known

    def last_seen(self, device: DeviceId) -> float | None:
        """In seconds of the system's clock; None where it was never connected."""
        return self._seen.get(device)

    def saw(self, device: DeviceId) -> None:
        """It is connected now."""
        self._seen[device] = time.time()
        self.on_unsaved()

    def reached(self, device: DeviceId, address: Address) -> None:
        """The device answers there."""
        self._set(device, (address, *(other for other in self.of(device) if other != address))[:MAX_ADDRESSES])

    def told(self, device: DeviceId, addresses: tuple[Address, ...]) -> None:
        """Another member has reached it there: what this device has found out itself comes first."""
        more = tuple(address for address in addresses if address not in self.of(device))
        self._set(device, (*self.of(device), *more)[:MAX_ADDRESSES])

    def _set(self, device: DeviceId, addresses: tuple[Address, ...]) -> None:
        if addresses == self.of(device) or (device not in self._known and len(self._known) >= MAX_DEVICES):
            return
        self._known[device] = addresses
        self.on_unsaved()
        self.on_change()


def save_whereabouts(state_dir: Path, whereabouts: Whereabouts, devices: Collection[DeviceId]) -> None:
    """What is known of these devices. Raises ConfigError."""
    content = {
        device: {
            "addresses": [str(address) for address in whereabouts.of(device)],
            "seen": whereabouts.last_seen(device),
        }
        for device in devices
        if whereabouts.of(device) or whereabouts.last_seen(device) is not None
    }
    replace_private(state_dir / FILE_NAME, json.dumps(content, indent=1).encode(), what=_WHAT)


def load_whereabouts(state_dir: Path) -> Whereabouts:
    """Empty where there is no file, or none that can be read: all of it can be found out again."""
    path = state_dir / FILE_NAME
    try:
        content = json.loads(read_private(path, what=_WHAT, max_bytes=_MAX_FILE_BYTES))
        known: dict[DeviceId, tuple[Address, ...]] = {}
        seen: dict[DeviceId, float] = {}
        for device, entry in list(content.items())[:MAX_DEVICES]:
            texts = entry["addresses"][:MAX_ADDRESSES]
            known[DeviceId(str(device))] = tuple(parse_address(str(text)) for text in texts)
            if entry["seen"] is not None:
                seen[DeviceId(str(device))] = float(entry["seen"])
        return Whereabouts(known, seen)
    except FileNotFoundError:
        pass
    except (ConfigError, ValueError, AttributeError, TypeError, KeyError, RecursionError) as error:
        _logger.warning("addresses_unreadable path=%s reason=%s", path, error)
    return Whereabouts()

"""Reads fields from the bytes of a peer, one behind the other; every length is checked before memory is taken."""

from __future__ import annotations

import unicodedata
from typing import Final

from tpid.device import can_be_shown
from tpid.errors import RemoteProtocolError

MAX_NAME_BYTES: Final = 255  # one byte says how many


class Octets:
    """`what` names the whole in errors. All methods raise RemoteProtocolError where the bytes are not enough."""

    def __init__(self, data: bytes | memoryview, *, what: str) -> None:
        self._data = memoryview(data)
        self._what = what

    def take(self, n_bytes: int) -> bytes:
        if n_bytes > len(self._data):
            raise RemoteProtocolError(f"{self._what} is too short.")
        taken, self._data = self._data[:n_bytes], self._data[n_bytes:]
        return bytes(taken)

    def number(self, n_bytes: int) -> int:
        """Big endian, not negative."""
        return int.from_bytes(self.take(n_bytes), "big")

    def counted(self, length_bytes: int, *, at_most: int) -> bytes:
        """Bytes behind their number, which takes `length_bytes`."""
        n_bytes = self.number(length_bytes)
        if n_bytes > at_most:
            raise RemoteProtocolError(f"{self._what} has a field of {n_bytes} bytes; {at_most} are allowed.")
        return self.take(n_bytes)

    def name(self) -> str:
        """A name for people behind its length: see `is_name`."""
        try:
            name = self.counted(1, at_most=MAX_NAME_BYTES).decode("utf-8")
        except UnicodeDecodeError:
            raise RemoteProtocolError(f"{self._what} has a name that is not UTF-8.") from None
        if not is_name(name):
            raise RemoteProtocolError(f"{self._what} has a name that cannot be shown.")
        return name

    def end(self) -> None:
        """Nothing may follow."""
        if self._data:
            raise RemoteProtocolError(f"{self._what} has {len(self._data)} bytes too many.")


def is_name(name: str) -> bool:
    """Whether it can be written in one way only, shown on a screen, and told from others at its ends."""
    return (
        0 < len(name.encode("utf-8", "surrogatepass")) <= MAX_NAME_BYTES
        and can_be_shown(name)
        and name == unicodedata.normalize("NFC", name)
    )


def name_field(name: str) -> bytes:
    """A name as `Octets.name` reads it; it must be one."""
    encoded = name.encode("utf-8")
    return bytes([len(encoded)]) + encoded

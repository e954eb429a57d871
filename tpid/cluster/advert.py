"""What a device tells over mDNS: a TXT record, written and read. Anybody can send one, so reading is total.

key      value
-------  -----------------------------------------------------------------
id       device id: 64 hexadecimal digits
name     of the device, for people: 1 to 63 printable characters
home     short fingerprint of its home
v        version of the protocol
ram      bytes installed                                                     not where `advertise` is "minimal"
disk     bytes free where the packs are                                      likewise
threads  that compute                                                        likewise
read     measured bytes of weights that a decode step goes through in a second; likewise
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tpid.comm.messages import PROTOCOL_VERSION
from tpid.device import MAX_NAME_BYTES, DeviceId, DeviceProfile, is_device_name
from tpid.errors import RemoteProtocolError

MAX_TEXT_CHARS = 63  # a key and 63 characters of 3 bytes fit the 255 bytes of one TXT string

ID_CHARS = 64

_NUMBER = re.compile(rb"[0-9]{1,18}")  # below 2**63
_DEVICE_ID = re.compile(f"[0-9a-f]{{{ID_CHARS}}}")


@dataclass(frozen=True, slots=True)
class Advert:
    """Hints, not facts: what counts is what the connection proves. A number that is not told is 0."""

    id: DeviceId
    name: str
    home: str
    protocol_version: int
    ram_bytes: int = 0
    disk_free_bytes: int = 0
    threads: int = 0
    read_bytes_s: int = 0


def encode_advert(profile: DeviceProfile, home: str, *, minimal: bool = False) -> dict[str, str]:
    """The TXT record of this device."""
    record = {"id": profile.id, "name": profile.name, "home": home, "v": str(PROTOCOL_VERSION)}
    if minimal:
        return record
    return record | {
        "ram": str(profile.ram_bytes),
        "disk": str(profile.disk_free_bytes),
        "threads": str(profile.threads),
        "read": str(int(profile.read_bytes_s)),
    }


def decode_advert(properties: Mapping[bytes, bytes | None]) -> Advert:
    """Raises RemoteProtocolError, and nothing else, whatever the bytes."""
    device_id = _decoded(properties, "id")
    version = _number(properties, "v", needed=True)
    if version != PROTOCOL_VERSION:  # only what all versions have
        return Advert(DeviceId(device_id[:ID_CHARS]), _name(properties), "", version)
    if not _DEVICE_ID.fullmatch(device_id):
        raise RemoteProtocolError("The announcement of a device has no device id.")
    return Advert(
        id=DeviceId(device_id),
        name=_name(properties),
        home=_text(properties, "home"),
        protocol_version=version,
        ram_bytes=_number(properties, "ram"),
        disk_free_bytes=_number(properties, "disk"),
        threads=_number(properties, "threads"),
        read_bytes_s=_number(properties, "read"),
    )


def is_cluster_name(text: str) -> bool:
    """Whether a cluster can be called so: it must arrive as it is."""
    return _is_text(text) and len(text.encode()) <= MAX_NAME_BYTES


def _is_text(text: str) -> bool:
    return 1 <= len(text) <= MAX_TEXT_CHARS and text.isprintable()


def _name(properties: Mapping[bytes, bytes | None]) -> str:
    name = _decoded(properties, "name")
    if not is_device_name(name):
        raise RemoteProtocolError("The announcement of a device has no usable 'name'.")
    return name


def _text(properties: Mapping[bytes, bytes | None], key: str) -> str:
    text = _decoded(properties, key)
    if not _is_text(text):
        raise RemoteProtocolError(f"The announcement of a device has no usable {key!r}.")
    return text


def _decoded(properties: Mapping[bytes, bytes | None], key: str) -> str:
    try:
        return (properties.get(key.encode()) or b"").decode()
    except UnicodeDecodeError:
        return ""


def _number(properties: Mapping[bytes, bytes | None], key: str, *, needed: bool = False) -> int:
    value = properties.get(key.encode()) or b""
    if not value and not needed:
        return 0
    if not _NUMBER.fullmatch(value):
        raise RemoteProtocolError(f"The announcement of a device has no number {key!r}.")
    return int(value)

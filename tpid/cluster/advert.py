"""What a device tells over mDNS: a TXT record, written and read. Anybody can send one, so reading is total.

key      value
-------  -----------------------------------------------------------------
id       device id: 32 hexadecimal digits
name     of the device, for people: 1 to 63 printable characters
cluster  1 to 63 printable characters
role     user, helper
v        version of the protocol
ver      version of tpid
ram      bytes installed
disk     bytes free where the packs are
threads  that compute
read     measured bytes of weights that a decode step goes through in a second
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tpid.cluster.identity.device_id import parse_device_id
from tpid.comm.messages import PROTOCOL_VERSION
from tpid.device import DeviceId, DeviceProfile, Role, is_device_name
from tpid.errors import RemoteProtocolError

MAX_TEXT_CHARS = 63  # a key and 63 characters of 3 bytes fit the 255 bytes of one TXT string

_NUMBER = re.compile(rb"[0-9]{1,18}")  # below 2**63


@dataclass(frozen=True, slots=True)
class Advert:
    """Hints, not facts: what counts is the hello of the connection."""

    id: DeviceId
    name: str
    cluster: str
    role: Role
    protocol_version: int
    version: str
    ram_bytes: int
    disk_free_bytes: int
    threads: int
    read_bytes_s: int


def encode_advert(profile: DeviceProfile, cluster: str) -> dict[str, str]:
    """The TXT record of this device."""
    return {
        "id": profile.id,
        "name": profile.name,
        "cluster": cluster,
        "role": profile.role,
        "v": str(PROTOCOL_VERSION),
        "ver": _printable(profile.version) or "0",
        "ram": str(profile.ram_bytes),
        "disk": str(profile.disk_free_bytes),
        "threads": str(profile.threads),
        "read": str(int(profile.read_bytes_s)),
    }


def decode_advert(properties: Mapping[bytes, bytes | None]) -> Advert:
    """Raises RemoteProtocolError, and nothing else, whatever the bytes."""
    device_id = parse_device_id(_text(properties, "id"))
    if device_id is None:
        raise RemoteProtocolError("The announcement of a device has no device id.")
    role = _text(properties, "role")
    if role not in (Role.USER.value, Role.HELPER.value):
        raise RemoteProtocolError(f"Device {device_id} announces the unknown role {role!r}.")
    return Advert(
        id=device_id,
        name=_name(properties),
        cluster=_text(properties, "cluster"),
        role=Role(role),
        protocol_version=_number(properties, "v"),
        version=_text(properties, "ver"),
        ram_bytes=_number(properties, "ram"),
        disk_free_bytes=_number(properties, "disk"),
        threads=_number(properties, "threads"),
        read_bytes_s=_number(properties, "read"),
    )


def is_cluster_name(text: str) -> bool:
    """Whether a cluster can be called so: it must arrive as it is."""
    return _printable(text) == text and text != ""


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text).encode()[:180].decode(errors="ignore")[:MAX_TEXT_CHARS]


def _name(properties: Mapping[bytes, bytes | None]) -> str:
    name = _decoded(properties, "name")
    if not is_device_name(name):
        raise RemoteProtocolError("The announcement of a device has no usable 'name'.")
    return name


def _text(properties: Mapping[bytes, bytes | None], key: str) -> str:
    text = _decoded(properties, key)
    if not (1 <= len(text) <= MAX_TEXT_CHARS and text.isprintable()):
        raise RemoteProtocolError(f"The announcement of a device has no usable {key!r}.")
    return text


def _decoded(properties: Mapping[bytes, bytes | None], key: str) -> str:
    try:
        return (properties.get(key.encode()) or b"").decode()
    except UnicodeDecodeError:
        return ""


def _number(properties: Mapping[bytes, bytes | None], key: str) -> int:
    value = properties.get(key.encode()) or b""
    if not _NUMBER.fullmatch(value):
        raise RemoteProtocolError(f"The announcement of a device has no number {key!r}.")
    return int(value)

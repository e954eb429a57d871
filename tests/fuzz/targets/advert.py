"""What a device tells over mDNS: key, length, value, one after the other."""

from tpid.cluster.advert import decode_advert
from tpid.errors import RemoteProtocolError

_KEYS = (b"id", b"name", b"home", b"v", b"ram", b"disk", b"threads", b"read", b"later")


def fuzz(data: bytes) -> None:
    properties: dict[bytes, bytes | None] = {}
    at = 0
    while at + 2 <= len(data):
        key, size = _KEYS[data[at] % len(_KEYS)], data[at + 1]
        properties[key] = data[at + 2 : at + 2 + size] if size else None
        at += 2 + size
    try:
        advert = decode_advert(properties)
    except RemoteProtocolError:
        return
    assert advert.name.isprintable()
    assert 0 <= advert.ram_bytes < 2**63

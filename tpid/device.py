"""What a device is to the others: who it is, what it may do, what it brings."""

import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NewType

DeviceId = NewType("DeviceId", str)  # 64 hex digits: the SHA-256 of the certificate


MAX_NAME_CHARS: Final = 63
MAX_NAME_BYTES: Final = 180  # of UTF-8: with its key it fits one string of a TXT record
_JOINER: Final = "\u200d"  # not printable by itself, and part of many an emoji


def can_be_shown(text: str) -> bool:
    """Whether it goes on a screen as it is, and does not begin or end with what nobody sees."""
    return text == text.strip(" " + _JOINER) and all(char.isprintable() or char == _JOINER for char in text)


def is_device_name(text: str) -> bool:
    """Whether a device can be called so, wherever its name goes: configuration, hello, mDNS, logs and terminals."""
    return (
        0 < len(text) <= MAX_NAME_CHARS and len(text.encode(errors="replace")) <= MAX_NAME_BYTES and can_be_shown(text)
    )


def device_name(text: str) -> str:
    """The name that comes nearest to `text`: other kinds of space become spaces, what cannot be shown goes. May be
    empty."""
    spaced = "".join(" " if unicodedata.category(char) == "Zs" else char for char in unicodedata.normalize("NFC", text))
    shown = "".join(char for char in spaced if char.isprintable() or char == _JOINER)
    cut = shown[:MAX_NAME_CHARS].encode(errors="ignore")[:MAX_NAME_BYTES].decode(errors="ignore")
    return cut.strip(" " + _JOINER)


class Role(StrEnum):
    USER = "user"  # a person types here: may coordinate
    HELPER = "helper"  # lends its memory and cores, never coordinates


@dataclass(frozen=True, slots=True)
class HeldUnits:
    """What a device has of a pack that is not whole there: units start…stop, which are there in every layer."""

    pack: str  # its id
    attn: tuple[int, int]
    ffn: tuple[int, int]
    size_bytes: int  # of all its units, those of single layers too


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """What a device tells about itself, over mDNS and in its hello."""

    id: DeviceId
    name: str  # for people: the host name unless configured; see `is_device_name`
    role: Role
    version: str  # of tpid
    ram_bytes: int  # installed
    budget_bytes: int  # what tpid may use of it
    disk_free_bytes: int  # where the packs are
    threads: int  # that compute
    read_bytes_s: float  # measured: bytes of weights that a decode step goes through in a second
    backend: str  # of compute
    packs: tuple[str, ...] = ()  # ids of the packs that are here, whole
    # Of a device that does not tell them yet, these are 0: it streams nothing, and TTFT is estimated without.
    disk_bytes_s: float = 0.0  # measured: direct reads of weights from where the packs are
    matmul_flops_s: float = 0.0  # measured: multiplications and additions a second in prefill
    fetches_units: bool = False  # whether it gets the units of a share from other devices
    units: tuple[HeldUnits, ...] = ()  # of packs with holes; they go where others need their place


@dataclass(frozen=True, slots=True)
class LinkCost:
    """Of one link, while nothing else uses it. 0 stands for what is not known: it costs nothing."""

    rtt_s: float = 0.0  # of a small message and its answer, what both devices do for it included
    bytes_s: float = 0.0  # one way
    message_s: float = 0.0  # of one more message and its answer, where several follow each other

    def wire_s(self, n_bytes: int) -> float:
        """Of `n_bytes` behind each other, one way, without the delay."""
        return n_bytes / self.bytes_s if self.bytes_s > 0 else 0.0

"""What a device is to the others: who it is, what it may do, what it brings."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

DeviceId = NewType("DeviceId", str)  # 32 hex digits, made once and kept in the state directory


class Role(StrEnum):
    USER = "user"  # a person types here: may coordinate
    HELPER = "helper"  # lends its memory and cores, never coordinates


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """What a device tells about itself, over mDNS and in its hello."""

    id: DeviceId
    name: str  # for people: the host name unless configured
    role: Role
    version: str  # of tpid
    ram_bytes: int  # installed
    budget_bytes: int  # what tpid may use of it
    disk_free_bytes: int  # where the packs are
    threads: int  # that compute
    read_bytes_s: float  # measured: bytes of weights that a decode step goes through in a second
    backend: str  # of compute
    packs: tuple[str, ...] = ()  # ids of the packs that are here
    # Of a device that does not tell them yet, these are 0: it streams nothing, and TTFT is estimated without.
    disk_bytes_s: float = 0.0  # measured: direct reads of weights from where the packs are
    matmul_flops_s: float = 0.0  # measured: multiplications and additions a second in prefill

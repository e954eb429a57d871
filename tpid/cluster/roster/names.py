"""Names for people: no two members of a home share one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from tpid.cluster.octets import MAX_NAME_BYTES
from tpid.device import DeviceId

_ROOM_BYTES: Final = 8  # for "-" and a number


def free_name(wanted: str, taken: Collection[str]) -> str:
    """`wanted`, or that with the lowest number from 2 on behind it that nobody has; case does not tell names apart."""
    used = {name.casefold() for name in taken}
    if wanted.casefold() not in used:
        return wanted
    stem = wanted.encode("utf-8")[: MAX_NAME_BYTES - _ROOM_BYTES].decode("utf-8", "ignore").rstrip()
    number = 2
    while f"{stem}-{number}".casefold() in used:
        number += 1
    return f"{stem}-{number}"


def distinct_names(names: Mapping[DeviceId, str]) -> dict[DeviceId, str]:
    """A name of its own for each device, the same whoever computes it.

    An inviter chooses a name that is free; two that invite at the same time may choose the same one. Then the lower id
    keeps it.
    """
    chosen: dict[DeviceId, str] = {}
    taken: set[str] = set()
    late: list[DeviceId] = []
    for device in sorted(names):
        if names[device].casefold() in taken:
            late.append(device)
        else:
            chosen[device] = names[device]
            taken.add(names[device].casefold())
    for device in late:
        chosen[device] = free_name(names[device], taken)
        taken.add(chosen[device].casefold())
    return chosen

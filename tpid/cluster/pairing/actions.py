"""What the machines of a pairing want done, and what comes of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType, TypeAlias

from tpid.cluster.pairing.messages import PairingMessage
from tpid.cluster.roster.roster import Roster
from tpid.device import DeviceId, Role
from tpid.errors import PairingError

Run = NewType("Run", int)  # one connection of a joiner, numbered by whoever accepts it


@dataclass(frozen=True, slots=True)
class Send:
    run: Run
    message: PairingMessage


@dataclass(frozen=True, slots=True)
class Close:
    """When all is sent."""

    run: Run


@dataclass(frozen=True, slots=True)
class Admit:
    """Sign the admission and keep the roster; then tell the machine by `admitted` or `not_admitted`."""

    run: Run
    certificate: bytes
    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class Invited:
    """To the inviter: who is in. `acknowledged` is whether the joiner has said that it knows."""

    device: DeviceId
    name: str
    role: Role
    acknowledged: bool


@dataclass(frozen=True, slots=True)
class Joined:
    """To the joiner: its home. The roster may not be all of it yet."""

    roster: Roster
    inviter: DeviceId
    inviter_name: str
    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing follows."""

    outcome: Invited | Joined | PairingError


Action: TypeAlias = Send | Close | Admit | Ended

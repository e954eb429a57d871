"""Who may send what, and when: everything that is not listed here changes nothing.

The standing of a sender is what it is to this device at the moment its frame comes. Kinds of connection and lease
(HELLO … DEVICE, CAMPAIGN … RELEASE) have tables of their own: in `tpid.comm.connection` and `tpid.cluster.election`.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from tpid.comm.messages import Kind


class Standing(StrEnum):
    MEMBER = "member"  # connected, and nothing more
    RANK = "rank"  # of the plan that this device coordinates, or is loading
    HOLDER = "holder"  # of this device's lease
    PEER = "peer"  # a worker as this device is, in the holder's plan
    FORMER_HOLDER = "former holder"  # what is held or computed here is of its plan, but the lease is not its any more


class Phase(StrEnum):
    """Of this device: of the share that it holds for a holder, or of the plan that it coordinates for a rank."""

    IDLE = "idle"  # holds nothing
    LOADING = "loading"
    READY = "ready"
    PASS = "pass"


_ALWAYS: Final = frozenset(Phase)

# What a device takes in as a worker, from the holder of its lease. A LOAD of anyone else is answered by FAILED.
_OF_HOLDER: Final[Mapping[Kind, frozenset[Phase]]] = {
    Kind.LOAD: _ALWAYS,
    Kind.FETCH: _ALWAYS,
    Kind.UNLOAD: _ALWAYS - {Phase.IDLE},
    Kind.START: frozenset({Phase.READY, Phase.PASS}),
    Kind.SUM: frozenset({Phase.PASS}),
    Kind.ABORT: frozenset({Phase.READY, Phase.PASS}),
    Kind.PEER_PARTIAL: frozenset({Phase.READY, Phase.PASS}),
}
# And from the other workers of the plan that it holds. One may have begun a pass whose START has not come here yet.
_OF_PEER: Final[Mapping[Kind, frozenset[Phase]]] = {
    Kind.PEER_PARTIAL: frozenset({Phase.READY, Phase.PASS}),
}
# What it takes in as the coordinator, from the ranks of its plan.
_OF_RANK: Final[Mapping[Kind, frozenset[Phase]]] = {
    Kind.LOADED: frozenset({Phase.LOADING}),
    Kind.FAILED: _ALWAYS - {Phase.IDLE},
    Kind.DISK_USE: frozenset({Phase.READY, Phase.PASS}),
    Kind.PROGRESS: frozenset({Phase.LOADING, Phase.PASS}),
    Kind.PARTIAL: frozenset({Phase.PASS}),
}

WORKER_KINDS: Final = frozenset(_OF_HOLDER)
COORDINATOR_KINDS: Final = frozenset(_OF_RANK)


def permits(kind: Kind, standing: Standing, phase: Phase) -> bool:
    """Whether such a frame may change anything. Its term, pass and numbers are checked by whoever takes it."""
    match standing:
        case Standing.HOLDER:
            return phase in _OF_HOLDER.get(kind, ())
        case Standing.PEER:
            return phase in _OF_PEER.get(kind, ())
        case Standing.RANK:
            return phase in _OF_RANK.get(kind, ())
    return False

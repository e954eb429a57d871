"""What the connected devices have answered to the campaign of this one: bookkeeping of the election."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tpid.device import DeviceId, Role


@dataclass(frozen=True, slots=True)
class Request:
    """A CAMPAIGN or RENEW that is not answered yet."""

    term: int
    sent_at: float
    renew: bool
    withdrawn: bool = False  # a RELEASE followed: a grant that answers it does not hold


@dataclass(slots=True)
class Peer:
    """What a candidate or holder knows about one connected device."""

    role: Role
    asked: Request | None = None
    ask_again: bool = False  # something has changed since `asked` was sent
    granted_until: float | None = None
    answered_term: int = -1
    denied_by: DeviceId | None = None  # whom the peer named as its holder when it last refused
    raised: bool = False  # its refusal has made the term grow in this round already


class Answers:
    """Peers by id. At most one request is open for each peer and term, so an answer belongs to one request."""

    def __init__(self) -> None:
        self._peers: dict[DeviceId, Peer] = {}

    def __getitem__(self, peer_id: DeviceId) -> Peer:
        return self._peers[peer_id]

    def __contains__(self, peer_id: object) -> bool:
        return peer_id in self._peers

    def __iter__(self) -> Iterator[DeviceId]:
        return iter(self._peers)

    def __bool__(self) -> bool:
        return bool(self._peers)

    def join(self, peer_id: DeviceId, role: Role) -> None:
        self._peers[peer_id] = Peer(role)

    def forget(self, peer_id: DeviceId) -> None:
        self._peers.pop(peer_id, None)

    def is_open(self, peer_id: DeviceId, term: int) -> bool:
        asked = self._peers[peer_id].asked
        return asked is not None and asked.term == term

    def close_request(self, peer_id: DeviceId, term: int | None, answer_term: int) -> Request | None:
        """The request of `term` that this answer is for; None if it is for an older one."""
        peer = self._peers[peer_id]
        request = peer.asked
        if request is None or request.term != term or request.term != answer_term:
            return None
        peer.asked = None
        return request

    def withdraw(self) -> None:
        """No grant holds any more, and what was refused may be asked again."""
        for peer in self._peers.values():
            peer.granted_until = None
            peer.answered_term = -1
            if peer.asked is not None:
                peer.asked = replace(peer.asked, withdrawn=True)
                peer.ask_again = True

    def new_round(self) -> None:
        for peer in self._peers.values():
            peer.raised = False

    def lapse(self, now: float) -> None:
        """Forget grants that have run out."""
        for peer in self._peers.values():
            if peer.granted_until is not None and peer.granted_until <= now:
                peer.granted_until = None

    def overdue(self, term: int, ttl_s: float, now: float) -> list[DeviceId]:
        """Peers with a request of `term` that has been open for `ttl_s`."""
        return [
            peer_id
            for peer_id, peer in self._peers.items()
            if peer.asked is not None and peer.asked.term == term and peer.asked.sent_at + ttl_s <= now
        ]

    def deadlines(self, term: int, ttl_s: float) -> Iterator[float]:
        for peer in self._peers.values():
            if peer.granted_until is not None:
                yield peer.granted_until
            if peer.asked is not None and peer.asked.term == term:
                yield peer.asked.sent_at + ttl_s

    def granted_at(self, now: float) -> frozenset[DeviceId]:
        return frozenset(p for p, peer in self._peers.items() if (peer.granted_until or -math.inf) > now)

    def unanswered(self, term: int | None) -> frozenset[DeviceId]:
        return frozenset(p for p, peer in self._peers.items() if peer.answered_term != term)

    def refusing(self, term: int | None) -> dict[DeviceId, DeviceId]:
        """Peers that may still come round, each with the connected device that has its lease.

        A peer whose holder is not connected to us is out of our reach and is not among them.
        """
        return {
            peer_id: peer.denied_by or peer_id
            for peer_id, peer in self._peers.items()
            if peer.answered_term == term
            and peer.granted_until is None
            and (peer.denied_by is None or peer.denied_by in self._peers)
        }

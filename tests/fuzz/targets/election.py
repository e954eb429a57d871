"""One device's election machine among peers that send anything, with terms up to the last few that there are."""

import struct

from tpid.cluster.election import Election
from tpid.cluster.lease import (
    Action,
    BumpTerm,
    Busy,
    ElectionSettings,
    Event,
    LeaseMessage,
    Leave,
    PeerJoined,
    PeerLost,
    Received,
    Send,
    Tick,
    Want,
)
from tpid.comm.frames import encode_message
from tpid.comm.messages import Campaign, Deny, Grant, Release, Renew
from tpid.device import DeviceId, Role
from tpid.errors import LocalProtocolError, RemoteProtocolError

_ME = DeviceId("5" * 32)
_PEERS = [DeviceId(digit * 32) for digit in "0149"]
_MAX_EVENTS = 300
_EVENT = struct.Struct("<BBBB")
_LAST_TERM = 2**63 - 1
# As high as no run of events here can go beyond the last term: each peer may raise it by 2**32 at once.
_TERMS = (0, 1, 2, 3, 2**32, 2**32 + 1, 2**62, _LAST_TERM - 2**42)
_STEPS_S = (0.0, 0.0, 0.01, 0.3, 1.0, 1.1, 3.0, 60.0)


def fuzz(data: bytes) -> None:
    """First byte: the role, and where the terms stand; then four bytes an event."""
    if not data:
        return
    machine = Election(_ME, Role.HELPER if data[0] & 1 else Role.USER, ElectionSettings())
    machine._highest_term = _TERMS[(data[0] >> 1) % len(_TERMS)]
    now, seen = 0.0, [machine._highest_term]
    events = data[1 : 1 + _MAX_EVENTS * _EVENT.size]
    for what, who, how, after in _EVENT.iter_unpack(events[: len(events) // _EVENT.size * _EVENT.size]):
        now += _STEPS_S[after % len(_STEPS_S)]
        event = _event(what, _PEERS[who % len(_PEERS)], who // len(_PEERS), how, seen)
        try:
            actions = machine.handle(event, now)
        except (RemoteProtocolError, LocalProtocolError):
            continue
        machine.validate_state(now)
        seen = [*_terms_in(actions), *seen][:8]


def _event(what: int, peer: DeviceId, more: int, how: int, seen: list[int]) -> Event:  # noqa: PLR0911
    match what % 16:
        case 0 | 1:
            return PeerJoined(peer, Role.HELPER if how & 1 else Role.USER)
        case 2:
            return PeerLost(peer)
        case 3:
            return Want(bool(how & 1))
        case 4:
            return Busy(bool(how & 1))
        case 5:
            return BumpTerm()
        case 6:
            return Leave() if how == 0 else Tick()
        case 7:
            return Tick()
        case kind:
            return Received(peer, _message(kind, more, how, seen))


def _message(kind: int, more: int, how: int, seen: list[int]) -> LeaseMessage:
    near = seen[how % len(seen)] + (0, 0, 1, -1, 2, 2**31, 2**32, -(2**32))[how // 8 % 8]
    term = min(max(near, 0), _LAST_TERM) if how < 192 else _TERMS[how % len(_TERMS)]
    match kind:
        case 8 | 9:
            return Campaign(term=term, reason="prompt" if more & 1 else "idle")
        case 10 | 11:
            return Grant(term=term, ttl_s=(3.0, 600.0, 1e-9, 0.5)[more % 4])
        case 12 | 13:
            holder = (None, _ME, *_PEERS)[more % 6]
            return Deny(term=term, holder=holder, highest_term=_TERMS[more % len(_TERMS)] if more & 32 else term)
        case 14:
            return Renew(term=term)
        case _:
            return Release(term=term)


def _terms_in(actions: list[Action]) -> list[int]:
    """Of what is sent, which must fit a frame."""
    messages = [action.message for action in actions if isinstance(action, Send)]
    assert all(encode_message(message) for message in messages)
    return [message.term for message in messages]

"""An inviter and joiners in one process: messages go over as bytes, or not at all."""

import hashlib
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.unit.cluster.roster.people import person
from tpid.cluster.identity.identity import Identity
from tpid.cluster.pairing import inviter as inviter_module
from tpid.cluster.pairing import joiner as joiner_module
from tpid.cluster.pairing.actions import Action, Admit, Close, Ended, Invited, Joined, Run, Send
from tpid.cluster.pairing.code import Code, Entropy
from tpid.cluster.pairing.inviter import PAUSE_S, Inviter, Inviting
from tpid.cluster.pairing.joiner import Joiner
from tpid.cluster.pairing.messages import (
    Answer,
    Confirm,
    Hello,
    PairingMessage,
    PairingReader,
    Welcome,
    encode_pairing,
)
from tpid.cluster.roster.gossip import chain_to
from tpid.cluster.roster.names import free_name
from tpid.cluster.roster.roster import Roster, admit, found
from tpid.cluster.roster.statement import Statement
from tpid.device import DeviceId, Role
from tpid.errors import PairingError

CODE = Code("walnut-canyon-48213")
OTHER_CODE = Code("walnut-canyon-48214")

Outcome = Invited | Joined | PairingError | None


def as_bytes(message: PairingMessage) -> PairingMessage:
    (again,) = PairingReader().feed(encode_pairing(message))
    assert again == message
    return again


class Home:
    """Device 0 invites; what the machine wants done is done here."""

    def __init__(self, *, role: Role = Role.HELPER, seed: int = 0, name: str = "laptop", code: Code = CODE) -> None:
        self.identity = person(0)
        self.roster: Roster = found(self.identity, name)
        self.admitted: list[DeviceId] = []
        self.outcome: Outcome = None
        self.sent: dict[Run, list[PairingMessage]] = {}
        self.closed: set[Run] = set()
        self.now_s = 0.0
        self._runs = itertools.count(1)
        inviting = Inviting(
            self.roster.home,
            self.identity.id,
            name,
            role,
            lambda wanted: free_name(wanted, [member.name for member in self.roster.members.values()]),
        )
        self.inviter = Inviter(code, inviting, entropy=random.Random(seed).randbytes, now_s=0)

    def connect(self) -> Run:
        run = Run(next(self._runs))
        self.sent[run] = []
        self.now_s += PAUSE_S
        self.do(self.inviter.connected(run, self.now_s))
        return run

    def receive(self, run: Run, message: PairingMessage) -> list[PairingMessage]:
        """What this side says to it."""
        before = len(self.sent[run])
        self.do(self.inviter.received(run, as_bytes(message), self.now_s))
        return self.sent[run][before:]

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send(run, message):
                    assert run not in self.closed
                    self.sent[run].append(as_bytes(message))
                case Close(run):
                    self.closed.add(run)
                case Admit(_, certificate, name, role):
                    self.roster = admit(self.roster, self.identity, certificate=certificate, name=name, role=role)
                    (new,) = set(self.roster.members) - {self.identity.id, *self.admitted}
                    self.admitted.append(new)
                    self.do(self.inviter.admitted(self.chain(new), self.now_s))
                case Ended(outcome):
                    assert self.outcome is None
                    self.outcome = outcome

    def chain(self, device: DeviceId) -> list[Statement]:
        return chain_to(self.roster, device)


class Guest:
    """A device that joins."""

    def __init__(
        self,
        code: Code = CODE,
        *,
        who: int = 1,
        name: str = "pi",
        inviter_certificate: bytes | None = None,
        seed: int = 1,
        now_s: float = 0,
    ) -> None:
        self.identity: Identity = person(who)
        self.outcome: Outcome = None
        self.joiner = Joiner(
            code,
            self.identity,
            name,
            inviter_certificate=inviter_certificate or person(0).certificate,
            entropy=random.Random(seed).randbytes,
        )
        self.outbox: list[PairingMessage] = []
        self.do(self.joiner.start(now_s))

    def take(self) -> list[PairingMessage]:
        taken, self.outbox = self.outbox, []
        return taken

    def receive(self, message: PairingMessage, now_s: float = 0) -> None:
        self.do(self.joiner.received(as_bytes(message), now_s))

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send(_, message):
                    self.outbox.append(as_bytes(message))
                case Ended(outcome):
                    assert self.outcome is None
                    self.outcome = outcome


def run_pairing(
    home: Home, guest: Guest, alter: Callable[[PairingMessage], PairingMessage] = lambda message: message
) -> Run:
    """Carry messages to and fro until nobody has anything to say; `alter` sits in between."""
    run = home.connect()
    for message in home.sent[run]:
        guest.receive(message, home.now_s)
    while messages := guest.take():
        for message in messages:
            for answer in home.receive(run, alter(message)):
                guest.receive(alter(answer), home.now_s)
    return run


class Network:
    """Between a home and several joiners: it loses, doubles, reorders and changes messages, as it is told."""

    def __init__(self, home: Home, guests: list[Guest]) -> None:
        self._home = home
        self._waiting = list(guests)
        self._runs: dict[Run, Guest] = {}
        self._taken: dict[Run, int] = {}
        self._flying: list[tuple[Run, bool, PairingMessage]] = []  # run, whether to the inviter, what

    def happen(self, kind: str, which: int, value: int) -> None:
        home = self._home
        if kind == "dial" and self._waiting:
            run = home.connect()
            self._runs[run], self._taken[run] = self._waiting.pop(0), 0
        elif kind == "tick":
            home.now_s += value / 20
            home.do(home.inviter.tick(home.now_s))
        elif kind == "lost" and self._runs:
            home.do(home.inviter.lost(list(self._runs)[which % len(self._runs)], home.now_s))
        elif self._flying:
            self._message(kind, which % len(self._flying), value)
        for run, guest in self._runs.items():
            self._flying.extend((run, True, message) for message in guest.take())
            self._flying.extend((run, False, message) for message in home.sent[run][self._taken[run] :])
            self._taken[run] = len(home.sent[run])

    def settle(self) -> None:
        """All who have not, dial; all that flies arrives."""
        while self._waiting or self._flying:
            self.happen("deliver" if self._flying else "dial", 0, 0)

    def _message(self, kind: str, place: int, value: int) -> None:
        run, inwards, message = self._flying.pop(place)
        if kind == "swap":
            self._flying.append((run, inwards, message))
            return
        if kind == "twice":
            self._flying.insert(place, (run, inwards, message))
        if kind == "mangle":
            message = _mangled(message, value)
        if kind == "drop":
            return
        if inwards:
            self._home.receive(run, message)
        else:
            self._runs[run].receive(message, self._home.now_s)


def _mangled(message: PairingMessage, value: int) -> PairingMessage:
    match message:
        case Confirm(mac=mac) | Welcome(mac=mac):
            return replace(message, mac=bytes([mac[0] ^ (value or 1)]) + mac[1:])
        case Hello():
            return replace(message, certificate=person(7).certificate)
        case Answer():
            return replace(message, role=Role.USER)
        case _:
            return message


@dataclass
class _Toy:
    element: bytes
    _code: Code
    _ids: str


def fast_pake(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of SPAKE2, where thousands of runs are made: keys agree under the same conditions. It withstands
    nobody who computes."""

    def begin(code: Code, *, inviter: DeviceId, joiner: DeviceId, invites: bool, entropy: Entropy) -> Any:
        return _Toy(entropy(32), code, inviter + joiner)

    def finish(exchange: _Toy, element: bytes) -> bytes:
        both = b"".join(sorted([exchange.element, element]))
        return hashlib.sha256(both + f"{exchange._code} {exchange._ids}".encode()).digest()

    for module in (inviter_module, joiner_module):
        monkeypatch.setattr(module, "begin", begin)
        monkeypatch.setattr(module, "finish", finish)

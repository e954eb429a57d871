"""The side of the home: an open invitation, as a machine. Events and a clock reading in, actions out.

state       event                       next        actions
----------  --------------------------  ----------  -----------------------------------------------
OPEN        HELLO                       ANSWERED    ANSWER
ANSWERED    CONFIRM, right              ADMITTING   Admit
ANSWERED    CONFIRM, wrong              OPEN        REFUSE, Close; ENDED after the third
ADMITTING   admitted                    WELCOMED    WELCOME
ADMITTING   not admitted                ENDED       REFUSE, Close, Ended
WELCOMED    DONE, lost, late            ENDED       Close, Ended: the device is in
any but     another connection          the same    REFUSE, Close of that one
OPEN
ANSWERED    lost, late, another message OPEN        REFUSE, Close
any before  cancel, out of time         ENDED       REFUSE, Close, Ended
ADMITTING

A try is a CONFIRM: before it, a stranger has learnt nothing of the code. One run at a time, and none of them long.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from tpid.cluster.identity.certificate import device_id_of, read_certificate
from tpid.cluster.identity.identity import is_signed_by
from tpid.cluster.pairing.actions import Action, Admit, Close, Ended, Invited, Run, Send
from tpid.cluster.pairing.code import Code, Entropy
from tpid.cluster.pairing.confirmation import Transcript, inviters_mac, joiners_mac, possession
from tpid.cluster.pairing.messages import Answer, Confirm, Done, Hello, PairingMessage, Refuse, Welcome, Why
from tpid.cluster.pairing.pake import begin, finish
from tpid.cluster.roster.statement import HomeId, Statement
from tpid.device import DeviceId, Role
from tpid.errors import PairingError, RemoteProtocolError

VALID_S: Final = 300.0
N_TRIES: Final = 3
RUN_S: Final = 15.0  # for each answer of the joiner: its machine answers, not a person
PAUSE_S: Final = 0.2  # from one run's begin to the next: each costs some 10 ms of this device, and strangers may call


class _State(Enum):
    OPEN = auto()
    ANSWERED = auto()
    ADMITTING = auto()
    WELCOMED = auto()
    ENDED = auto()


@dataclass(frozen=True, slots=True)
class Inviting:
    """What this side brings. `free_name` turns the name that a joiner wants into one that nobody has."""

    home: HomeId
    inviter: DeviceId
    inviter_name: str
    role: Role  # that the joiner gets
    free_name: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class _Joiner:
    """Who is at it."""

    run: Run
    certificate: bytes
    transcript: Transcript
    key: bytes

    @property
    def mac_is(self) -> bytes:
        return joiners_mac(self.key, self.transcript)


class Inviter:
    """`deadline_s` is when `tick` has to be called, if nothing comes before."""

    def __init__(self, code: Code, inviting: Inviting, *, entropy: Entropy, now_s: float) -> None:
        self.tries_left = N_TRIES
        self.ends_s = now_s + VALID_S
        self._code = code
        self._inviting = inviting
        self._entropy = entropy
        self._state = _State.OPEN
        self._run: Run | None = None  # the one connection that is served
        self._joiner: _Joiner | None = None
        self._run_ends_s = self.ends_s
        self._free_s = now_s

    @property
    def has_ended(self) -> bool:
        return self._state is _State.ENDED

    @property
    def deadline_s(self) -> float | None:
        match self._state:
            case _State.ENDED | _State.ADMITTING:
                return None
            case _State.WELCOMED:
                return self._run_ends_s
            case _:
                return min(self.ends_s, self._run_ends_s) if self._run is not None else self.ends_s

    def connected(self, run: Run, now_s: float) -> list[Action]:
        """A joiner has connected."""
        actions = self.tick(now_s)
        if self.has_ended:
            return [*actions, Send(run, Refuse(Why.NO_INVITATION)), Close(run)]
        if self._run is not None or now_s < self._free_s:
            return [*actions, Send(run, Refuse(Why.BUSY)), Close(run)]
        self._free_s = now_s + PAUSE_S
        self._run = run
        self._run_ends_s = now_s + RUN_S
        return actions

    def received(self, run: Run, message: PairingMessage, now_s: float) -> list[Action]:
        actions = self.tick(now_s)
        if run != self._run:
            return actions  # one that was closed meanwhile
        match self._state, message:
            case _State.OPEN, Hello():
                return actions + self._hello(run, message, now_s)
            case _State.ANSWERED, Confirm():
                return actions + self._confirm(message)
            case _State.WELCOMED, Done():
                return actions + self._end_invited(acknowledged=True)
            case ((_State.ADMITTING | _State.WELCOMED), _):
                return actions  # it has proven itself, and it is too late to unsay that
            case _:
                return actions + self._drop(Why.BROKEN)

    def unreadable(self, run: Run, now_s: float) -> list[Action]:
        """What came was no message of a pairing."""
        return self.lost(run, now_s, Why.BROKEN)

    def lost(self, run: Run, now_s: float, why: Why | None = None) -> list[Action]:
        """The connection has ended, or must, because of `why`."""
        actions = self.tick(now_s)
        if run != self._run:
            return actions
        match self._state:
            case _State.WELCOMED:
                return actions + self._end_invited(acknowledged=False)
            case _State.ADMITTING:
                return actions  # the answer to Admit ends it
            case _:
                return actions + self._drop(why)

    def admitted(self, statements: Sequence[Statement], now_s: float) -> list[Action]:
        """`Admit` was done: `statements` are the chain from the founder to this device, and the new admission."""
        joiner = self._joiner
        if self._state is not _State.ADMITTING or joiner is None:
            return []
        self._state = _State.WELCOMED
        self._run_ends_s = now_s + RUN_S
        mac = inviters_mac(joiner.key, joiner.transcript)
        return [Send(joiner.run, Welcome(mac, self._inviting.home, tuple(statements)))]

    def not_admitted(self, reason: str) -> list[Action]:
        """`Admit` could not be done."""
        if self._state is not _State.ADMITTING:
            return []
        return self._end(
            PairingError(f"The other device knows the code and could not be admitted: {reason}"), Why.NOT_POSSIBLE
        )

    def cancel(self) -> list[Action]:
        """The person has thought better of it. A device that has proven itself is in all the same."""
        if self._state in (_State.ADMITTING, _State.WELCOMED, _State.ENDED):
            return []
        return self._end(PairingError("The invitation was cancelled."), Why.CANCELLED)

    def tick(self, now_s: float) -> list[Action]:
        if self._state in (_State.OPEN, _State.ANSWERED) and now_s >= self.ends_s:
            error = PairingError(
                f"Nobody has joined within {VALID_S / 60:g} minutes.", hint="Invite again: `tpictl invite`."
            )
            return self._end(error, Why.NO_INVITATION)
        if self._run is not None and now_s >= self._run_ends_s:
            if self._state is _State.WELCOMED:
                return self._end_invited(acknowledged=False)
            if self._state in (_State.OPEN, _State.ANSWERED):
                return self._drop(Why.BROKEN)
        return []

    def _hello(self, run: Run, hello: Hello, now_s: float) -> list[Action]:
        inviting = self._inviting
        joiner = device_id_of(hello.certificate)
        try:
            read_certificate(hello.certificate)
            if joiner == inviting.inviter:
                raise RemoteProtocolError("A device cannot join itself.")
            exchange = begin(self._code, inviter=inviting.inviter, joiner=joiner, invites=True, entropy=self._entropy)
            key = finish(exchange, hello.element)
        except RemoteProtocolError:
            return self._drop(Why.BROKEN)
        transcript = Transcript(
            home=inviting.home,
            inviter=inviting.inviter,
            joiner=joiner,
            role=inviting.role,
            inviter_name=inviting.inviter_name,
            joiner_name=inviting.free_name(hello.name),
            joiner_element=hello.element,
            inviter_element=exchange.element,
        )
        self._joiner = _Joiner(run, hello.certificate, transcript, key)
        self._state = _State.ANSWERED
        self._run_ends_s = now_s + RUN_S
        answer = Answer(inviting.home, inviting.role, inviting.inviter_name, transcript.joiner_name, exchange.element)
        return [Send(run, answer)]

    def _confirm(self, confirm: Confirm) -> list[Action]:
        joiner = self._joiner
        if joiner is None:
            return []
        self.tries_left -= 1
        if not hmac.compare_digest(confirm.mac, joiner.mac_is):
            if self.tries_left:
                return self._drop(Why.WRONG_CODE)
            error = PairingError(
                f"{N_TRIES} wrong codes came; the invitation has ended.",
                hint="Invite again, and compare the new code letter by letter. Or is somebody guessing?",
            )
            return self._end(error, Why.WRONG_CODE)
        if not is_signed_by(read_certificate(joiner.certificate), confirm.signature, possession(joiner.transcript)):
            return (
                self._drop(Why.BROKEN)
                if self.tries_left
                else self._end(PairingError("Who knows the code showed a certificate that is not its own."), Why.BROKEN)
            )
        self._state = _State.ADMITTING
        return [Admit(joiner.run, joiner.certificate, joiner.transcript.joiner_name, joiner.transcript.role)]

    def _drop(self, why: Why | None) -> list[Action]:
        """The run at hand comes to nothing; the invitation stays open."""
        run, self._run, self._joiner = self._run, None, None
        self._state = _State.OPEN
        if run is None:
            return []
        return [Close(run)] if why is None else [Send(run, Refuse(why, self.tries_left)), Close(run)]

    def _end(self, error: PairingError, why: Why) -> list[Action]:
        actions = self._drop(why)
        self._state = _State.ENDED
        return [*actions, Ended(error)]

    def _end_invited(self, *, acknowledged: bool) -> list[Action]:
        joiner = self._joiner
        actions = self._drop(None)
        self._state = _State.ENDED
        if joiner is None:
            return actions
        transcript = joiner.transcript
        return [*actions, Ended(Invited(transcript.joiner, transcript.joiner_name, transcript.role, acknowledged))]

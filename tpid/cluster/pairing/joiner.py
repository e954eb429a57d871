"""The side of the new device: one try at one invitation, as a machine. Events and a clock reading in, actions out.

state      event     next       actions
---------  --------  ---------  ------------------------------------------------------------------
           start     GREETED    HELLO
GREETED    ANSWER    CONFIRMED  CONFIRM
CONFIRMED  WELCOME   ENDED      DONE, Close, Ended: joined, if it proves the code and holds the home
any        others    ENDED      Close, Ended: not joined

It makes one try: whoever plays the inviter, without knowing the code, has one guess at it. It never believes a word of
the other side about the home before that side has proven the code.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from tpid.cluster.identity.certificate import device_id_of
from tpid.cluster.identity.identity import Identity
from tpid.cluster.octets import is_name
from tpid.cluster.pairing.actions import Action, Close, Ended, Joined, Run, Send
from tpid.cluster.pairing.code import Code, Entropy
from tpid.cluster.pairing.confirmation import Transcript, inviters_mac, joiners_mac, possession
from tpid.cluster.pairing.messages import Answer, Confirm, Done, Hello, PairingMessage, Refuse, Welcome, Why
from tpid.cluster.pairing.pake import Exchange, begin, finish
from tpid.cluster.roster.roster import Roster, received
from tpid.device import DeviceId, Role
from tpid.errors import PairingBusyError, PairingError, RemoteProtocolError, RosterError

STEP_S: Final = 15.0  # for each answer of the inviter

_RUN: Final = Run(0)
_REFUSALS: Final = {
    Why.NO_INVITATION: ("The other device has no invitation open.", "Invite first: `tpictl invite` there."),
    Why.BUSY: ("The other device is just pairing with another one.", "Try again in a moment."),
    Why.WRONG_CODE: (
        "The code is not the one on the other device's screen.",
        "Compare it letter by letter. Is it the same, somebody sits in between: pair over a cable.",
    ),
    Why.BROKEN: ("The other device did not understand this one.", "Compare the versions: `tpictl --version`."),
    Why.CANCELLED: ("The invitation was cancelled on the other device.", None),
    Why.NOT_POSSIBLE: ("The code is right, and the home cannot take this device.", "The other screen says why."),
}


class _State(Enum):
    NEW = auto()
    GREETED = auto()
    CONFIRMED = auto()
    ENDED = auto()


@dataclass(frozen=True, slots=True)
class _Proof:
    key: bytes
    transcript: Transcript


class Joiner:
    """`deadline_s` is when `tick` has to be called, if nothing comes before."""

    def __init__(
        self, code: Code, identity: Identity, name: str, *, inviter_certificate: bytes, entropy: Entropy
    ) -> None:
        """`inviter_certificate` is what the listener has shown in TLS.

        Raises PairingError for a `name` that is none.
        """
        if not is_name(name):
            raise PairingError(f"{name!r} cannot be the name of a device.", hint="Configure one of up to 255 letters.")
        self.deadline_s: float | None = None
        self._identity = identity
        self._name = name
        self._inviter: DeviceId = device_id_of(inviter_certificate)
        self._exchange: Exchange = begin(
            code, inviter=self._inviter, joiner=identity.id, invites=False, entropy=entropy
        )
        self._state = _State.NEW
        self._proof: _Proof | None = None

    @property
    def has_ended(self) -> bool:
        return self._state is _State.ENDED

    def start(self, now_s: float) -> list[Action]:
        self._state = _State.GREETED
        self.deadline_s = now_s + STEP_S
        return [Send(_RUN, Hello(self._identity.certificate, self._name, self._exchange.element))]

    def received(self, message: PairingMessage, now_s: float) -> list[Action]:
        if self.has_ended:
            return []
        if actions := self.tick(now_s):
            return actions
        match self._state, message:
            case _State.GREETED, Answer():
                return self._answer(message, now_s)
            case _State.CONFIRMED, Welcome():
                return self._welcome(message)
            case _, Refuse(why, tries_left):
                return self._refused(why, tries_left)
            case _:
                return self._broken()

    def unreadable(self) -> list[Action]:
        """What came was no message of a pairing."""
        return [] if self.has_ended else self._broken()

    def lost(self) -> list[Action]:
        """The connection has ended."""
        return self._fail("The connection to the other device has ended.", "Try again with the same code.")

    def cancel(self) -> list[Action]:
        return self._fail("Joining was cancelled.", None)

    def tick(self, now_s: float) -> list[Action]:
        if self.deadline_s is None or now_s < self.deadline_s:
            return []
        return self._fail(f"The other device did not answer within {STEP_S:g} s.", "Try again with the same code.")

    def _answer(self, answer: Answer, now_s: float) -> list[Action]:
        transcript = Transcript(
            home=answer.home,
            inviter=self._inviter,
            joiner=self._identity.id,
            role=answer.role,
            inviter_name=answer.inviter_name,
            joiner_name=answer.joiner_name,
            joiner_element=self._exchange.element,
            inviter_element=answer.element,
        )
        try:
            key = finish(self._exchange, answer.element)
        except RemoteProtocolError:
            return self._broken()
        self._proof = _Proof(key, transcript)
        self._state = _State.CONFIRMED
        self.deadline_s = now_s + STEP_S
        return [Send(_RUN, Confirm(joiners_mac(key, transcript), self._identity.sign(possession(transcript))))]

    def _welcome(self, welcome: Welcome) -> list[Action]:
        proof = self._proof
        if proof is None or not hmac.compare_digest(welcome.mac, inviters_mac(proof.key, proof.transcript)):
            return self._fail("The other device does not know the code.", "Is there another one of that name?")
        transcript = proof.transcript
        try:
            roster = received(Roster(transcript.home), welcome.statements)
        except RosterError:
            return self._broken()
        inviter, own = roster.members.get(transcript.inviter), roster.members.get(transcript.joiner)
        if inviter is None or inviter.role is not Role.USER or own is None or own.role is not transcript.role:
            return self._broken()
        self._finish()
        joined = Joined(roster, transcript.inviter, transcript.inviter_name, transcript.joiner_name, transcript.role)
        return [Send(_RUN, Done()), Close(_RUN), Ended(joined)]

    def _refused(self, why: Why, tries_left: int) -> list[Action]:
        message, hint = _REFUSALS[why]
        if why is Why.WRONG_CODE:
            message += f" Tries left: {tries_left}." if tries_left else " The invitation has ended."
        # Who has seen a CONFIRM has made a guess at the code: it gets no second one for having been busy.
        busy = why is Why.BUSY and self._state is _State.GREETED
        return self._fail(message, hint, PairingBusyError if busy else PairingError)

    def _broken(self) -> list[Action]:
        return self._fail(
            "The other device does not pair as this one does.", "Compare the versions: `tpictl --version`."
        )

    def _fail(self, message: str, hint: str | None, kind: type[PairingError] = PairingError) -> list[Action]:
        if self.has_ended:
            return []
        self._finish()
        return [Close(_RUN), Ended(kind(message, hint=hint))]

    def _finish(self) -> None:
        self._state = _State.ENDED
        self.deadline_s = None
        self._proof = None

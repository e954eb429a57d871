"""Who coordinates: a machine of leases, without clock, sockets or randomness.

`handle(event, now) -> actions`; `next_deadline()` says when the next `Tick` is due. Every device has one
slot: the lease that it has given, to itself or to another. A holder is a device that has its own slot.

    situation of the receiver          CAMPAIGN(T) from X is answered by
    ---------------------------------  ----------------------------------------------------------------
    slot free, or X's already          GRANT, if T is new here; otherwise DENY with the highest term, and
                                       the slot is kept for X, who raises its term and asks again
    slot is another's                  DENY naming the holder, and RELEASE(T) when the slot is free
    holder, busy                       DENY; X is next as soon as the holder is idle
    holder, idle; X has a prompt       RELEASE to all grantors, then as if the slot were free
    holder, idle; X is idle too        the same if X wins the tie: higher term, then lower id; else DENY
    holder with a prompt; so has X     the same tie
    holder with a prompt; X is idle    DENY

    who                                does
    ---------------------------------  ----------------------------------------------------------------
    user device, slot free, no prompt  after a short delay takes its own slot and campaigns ("idle")
    user device with a prompt          slot free: takes it and campaigns at all; slot given: asks its holder
    …when that holder is lost          takes its own slot at once
    …when that holder gives back       with a GRANT or a RELEASE of its own term it is next and takes its
                                       slot; otherwise another is next: waits for its campaign, or the delay
    holder                             every third of the time to live: RENEW to grantors, CAMPAIGN to others
    holder, refused for its term       idle: raises its term and asks again; busy: later
    helper                             gives its slot, never asks
    grantor                            frees its slot on RELEASE, loss of the connection, or after `ttl_s`

What makes it safe: one slot a device; at most one request is open for each peer and term, so an answer
belongs to one request; the holder counts the time to live from when it sent the request, the grantor from
when the request came; the terms that a device grants grow, and two holders never share one there.
What makes it end: who gave way does not raise its term until it is next, so prompts cannot overtake each
other for ever. A request that stays unanswered for `answer_s` ends the connection. A term that is far above all
that was seen is followed step by step, and denied until then.
"""

import math
from collections.abc import Mapping
from typing import Literal

from tpid.cluster.answers import Answers, Request
from tpid.cluster.lease import (
    NEAR_TERMS,
    TERM_STEP,
    TERM_STEP_S,
    Action,
    BumpTerm,
    Busy,
    Changed,
    Disconnect,
    ElectionSettings,
    Event,
    Lease,
    LeaseLost,
    LeaseMessage,
    Leave,
    PeerJoined,
    PeerLost,
    Received,
    Send,
    Slot,
    Want,
    check_message,
)
from tpid.comm.messages import Campaign, Deny, Grant, Release, Renew
from tpid.device import DeviceId, Role
from tpid.errors import LocalProtocolError


class Election:
    """The machine of one device. Events of one connection must come in the order of the wire."""

    def __init__(self, me: DeviceId, role: Role, settings: ElectionSettings) -> None:
        self._me = me
        self._role = role
        self._settings = settings
        self._slot: Slot | None = None
        self._last_granted = (0, me)  # the term and the device that the slot was last granted to
        self._freed_by = me  # who last gave this device's lease back
        self._highest_term = 0
        self._next_step_at = -math.inf  # towards a term far above
        self._claim_term: int | None = None  # of the running campaign or lease of this device
        self._wanted = False
        self._busy = False
        self._left = False
        self._peers = Answers()
        self._waiting: dict[DeviceId, Campaign] = {}  # refused because of the holder
        self._round_at = 0.0
        self._take_at: float | None = None  # when to take the own slot, which is free
        self._actions: list[Action] = []

    # --- what others may look at

    @property
    def coordinator(self) -> DeviceId | None:
        """Whose lease this device has given."""
        return self._slot.holder if self._slot else None

    @property
    def term(self) -> int:
        """Of the lease that this device has given; 0 if there is none."""
        return self._slot.term if self._slot else 0

    @property
    def holding(self) -> bool:
        return self._slot is not None and self._slot.holder == self._me

    @property
    def busy(self) -> bool:
        return self._busy

    @property
    def lease(self) -> Lease | None:
        """What this device holds, None if it is not the holder."""
        if self._slot is None or not self.holding:
            return None
        return Lease(self._slot.term, self._peers.granted | {self._me})

    @property
    def unanswered(self) -> frozenset[DeviceId]:
        """Connected devices that have not answered a holder's campaign of its present term."""
        return self._peers.unanswered(self._claim_term) if self.holding else frozenset()

    @property
    def refusing(self) -> Mapping[DeviceId, DeviceId]:
        """Connected devices that refused the holder but may come round: each with who has its lease."""
        return self._peers.refusing(self._claim_term) if self.holding else {}

    @property
    def ready(self) -> bool:
        """The holder may start: all that can grant have granted."""
        return self.holding and not self.unanswered and not self.refusing

    def next_deadline(self) -> float | None:
        deadlines: list[float] = []
        if self._slot is not None and self._slot.holder != self._me:
            deadlines.append(self._slot.expires_at)
        if self._take_at is not None:
            deadlines.append(self._take_at)
        if self._claim_term is not None and self._peers:
            deadlines.append(self._round_at)
            deadlines.extend(self._peers.deadlines(self._claim_term, self._settings.answer_s))
        return min(deadlines, default=None)

    # --- events

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take one event; `now` never goes back.

        Raises, with nothing changed: RemoteProtocolError for a message that its sender may not send,
        LocalProtocolError for what only a holder, or only a user device, may do.
        """
        self._check(event)
        before = self._view()
        self._actions = []
        self._pass_deadlines(now)
        self._take(event, now)
        self._settle(now)
        if self._view() != before:
            self._actions.append(Changed())
        return self._actions

    def validate_state(self, now: float) -> None:
        """For tests: raises AssertionError when an invariant is broken."""
        checks = {
            "a helper never claims": self._role is Role.USER or self._claim_term is None,
            "a holder has a claim of its slot's term": not self.holding
            or (self._slot is not None and self._slot.term == self._claim_term),
            "only a holder has grants": not self._peers.granted or self.holding,
            "only a holder is busy": not self._busy or self.holding,
            "a claim without the slot waits for a prompt": self._claim_term is None or self.holding or self._wanted,
            "the slot is a connected device's": self._slot is None or self._slot.holder in {*self._peers, self._me},
            "who waits is connected": self._waiting.keys() <= set(self._peers),
            "no term is above the highest": max(self._claim_term or 0, self._last_granted[0]) <= self._highest_term,
            "a user device without coordinator will campaign": self._role is Role.HELPER
            or self._left
            or self._slot is not None
            or self._take_at is not None,
            "deadlines are ahead": (self.next_deadline() or math.inf) > now,
        }
        broken = [name for name, holds in checks.items() if not holds]
        if broken:
            raise AssertionError(f"{self._me}: {broken}")

    # --- events, one by one

    def _take(self, event: Event, now: float) -> None:
        match event:
            case PeerJoined(peer_id, role):
                self._joined(peer_id, role, now)
            case PeerLost(peer_id):
                self._forget(peer_id, now)
            case Received(peer_id, message) if peer_id in self._peers:  # else its connection was cut here
                self._received(peer_id, message, now)
            case Want(wanted):
                self._want(wanted, now)
            case Busy(busy):
                self._busy = busy
            case BumpTerm():
                self._raise_term(now)
            case Leave():
                self._leave()

    def _check(self, event: Event) -> None:
        match event:
            case Received(peer_id, message) if peer_id in self._peers:
                check_message(peer_id, self._peers[peer_id].role, message)
            case Want(wanted=True) if self._role is not Role.USER or self._left:
                raise LocalProtocolError("This device may not ask for the lease.")
            case Busy(busy=True) if not self.holding:
                raise LocalProtocolError("A device that does not hold the lease cannot be busy with it.")
            case BumpTerm() if not self.holding:
                raise LocalProtocolError("Only the holder of the lease can raise its term.")

    def _view(self) -> tuple[object, ...]:
        slot = self._slot
        return (slot and (slot.holder, slot.term, slot.granted), self.lease, self.unanswered, self.refusing)

    # --- deadlines

    def _pass_deadlines(self, now: float) -> None:
        if self._slot is not None and self._slot.expires_at <= now:
            self._holder_lost(now)
        self._peers.lapse(now)
        if self._claim_term is not None:
            for peer_id in self._peers.overdue(self._claim_term, self._settings.answer_s, now):
                self._forget(peer_id, now)
                reason = f"it has not answered for {self._settings.answer_s:g} s whether it grants its lease"
                self._actions.append(Disconnect(peer_id, reason))
        if self._claim_term is not None and self._round_at <= now:
            self._peers.new_round()
            self._round(now)
        if self._take_at is not None and self._take_at <= now:
            self._take_own_slot(now)

    def _round(self, now: float) -> None:
        self._round_at = now + self._settings.renew_s
        for peer_id in self._peers:
            if self._claim_term is not None and not self._peers.is_open(peer_id, self._claim_term):
                self._ask(peer_id, now)

    def _settle(self, now: float) -> None:
        """What follows from the state alone, whatever event led to it."""
        self._yield_to_waiting(now)
        self._ask_holder(now)
        if self._slot is None:
            for peer_id, campaign in self._waiting.items():
                self._send(peer_id, Release(term=campaign.term))
            self._waiting.clear()
        if self._slot is not None or self._role is not Role.USER or self._left:
            self._take_at = None
        elif self._take_at is None:
            self._take_at = now + self._settings.idle_wait_s(self._me, self._highest_term)

    def _ask_holder(self, now: float) -> None:
        """A waiting prompt asks each new holder once, at once; the rounds repeat it."""
        holder = self.coordinator
        if self._claim_term is None or holder is None or holder == self._me:
            return
        open_already = self._peers.is_open(holder, self._claim_term)
        if not open_already and self._peers[holder].answered_term != self._claim_term:
            self._ask(holder, now)

    def _yield_to_waiting(self, now: float) -> None:
        if not self.holding:
            return
        winners = [peer_id for peer_id, campaign in self._waiting.items() if self._yields(peer_id, campaign)]
        if winners:
            best = min(winners, key=lambda p: (self._waiting[p].reason != "prompt", -self._waiting[p].term, p))
            term = self._waiting[best].term
            self._give_up(f"it went to {best}, who waited for it")
            self._lease_to(best, term, now, asked=False)
            self._send(best, Release(term=term))  # its own term: it is next

    # --- peers come and go, the user acts

    def _joined(self, peer_id: DeviceId, role: Role, now: float) -> None:
        self._forget(peer_id, now)
        self._peers.join(peer_id, role)
        if self.holding:
            self._ask(peer_id, now)
        self._take_at = None  # begins anew in `_settle`: the peer may know who coordinates

    def _forget(self, peer_id: DeviceId, now: float) -> None:
        self._peers.forget(peer_id)
        self._waiting.pop(peer_id, None)
        if self._slot is not None and self._slot.holder == peer_id:
            self._holder_lost(now)

    def _holder_lost(self, now: float) -> None:
        self._slot = None
        if self._claim_term is not None:
            self._take_own_slot(now)

    def _want(self, wanted: bool, now: float) -> None:
        if wanted == self._wanted:
            return
        self._wanted = wanted
        if wanted and self._claim_term is None:
            self._claim_term = self._next_term()
            self._round_at = now + self._settings.renew_s
            if self._slot is None:
                self._take_own_slot(now)
        elif wanted:
            for peer_id in set(self._peers) - self._peers.granted:
                self._ask(peer_id, now)
        elif not self.holding:
            if self._slot is not None and self._claim_term is not None:
                self._send(self._slot.holder, Release(term=self._claim_term))
            self._claim_term = None

    def _leave(self) -> None:
        self._left = True
        self._wanted = self._busy = False
        if self.holding:
            self._give_up("this device leaves the cluster")
        self._claim_term = None

    # --- as a candidate and holder

    def _next_term(self) -> int:
        self._highest_term += 1
        return self._highest_term

    def _take_own_slot(self, now: float) -> None:
        term = self._claim_term
        if term is None or term < self._highest_term or term <= self._last_granted[0]:
            term = self._next_term()
        self._own(term, now)

    def _raise_term(self, now: float) -> None:
        self._own(self._next_term(), now)

    def _own(self, term: int, now: float) -> None:
        self._claim_term = term
        self._slot = Slot(self._me, term, math.inf, granted=True)
        self._last_granted = (term, self._me)
        self._round(now)

    def _ask(self, peer_id: DeviceId, now: float) -> None:
        """Send CAMPAIGN or RENEW; without the own slot, only its holder is asked."""
        peer = self._peers[peer_id]
        if self._claim_term is None or self.coordinator not in (self._me, peer_id):
            return
        if self._peers.is_open(peer_id, self._claim_term):
            peer.ask_again = True
            return
        renew = peer.granted_until is not None
        peer.asked = Request(self._claim_term, now, renew)
        peer.ask_again = False
        if renew:
            self._send(peer_id, Renew(term=self._claim_term))
        else:
            reason: Literal["idle", "prompt"] = "prompt" if self._wanted or self._busy else "idle"
            self._send(peer_id, Campaign(term=self._claim_term, reason=reason))

    def _give_up(self, reason: str) -> None:
        """Give all leases back. A waiting prompt keeps its claim, and asks the next holder."""
        for peer_id in self._peers:
            self._send(peer_id, Release(term=self._claim_term or 0))
        self._peers.withdraw()
        self._slot = None
        if not self._wanted:
            self._claim_term = None
        self._actions.append(LeaseLost(reason))

    def _granted(self, peer_id: DeviceId, message: Grant, now: float) -> None:
        if self._claim_term is None:
            self._send(peer_id, Release(term=message.term))  # the claim was dropped meanwhile
            return
        request = self._peers.close_request(peer_id, self._claim_term, message.term)
        if request is None:
            return  # the grantor has the newer request before it already
        peer = self._peers[peer_id]
        if request.withdrawn:
            if peer.ask_again:
                self._ask(peer_id, now)
            return  # our RELEASE is on its way
        peer.ask_again = False
        peer.answered_term = message.term
        if self.coordinator not in (None, self._me):
            self._send(peer_id, Release(term=message.term))  # without the own slot there is nothing to hold
            return
        peer.denied_by = None
        until = request.sent_at + message.ttl_s
        peer.granted_until = until if until > now else None
        if not self.holding:
            self._take_own_slot(now)  # who had our slot gave it back, and grants us its own

    def _denied(self, peer_id: DeviceId, message: Deny, now: float) -> None:
        self._follow(message.highest_term, now)
        request = self._peers.close_request(peer_id, self._claim_term, message.term)
        if request is None:
            return
        peer = self._peers[peer_id]
        peer.granted_until = None
        if self._slot is None and message.holder is None and not request.withdrawn:
            self._take_own_slot(now)  # the last holder keeps its slot for us, but asks for a higher term
            return
        peer.answered_term = message.term
        peer.denied_by = DeviceId(message.holder) if message.holder is not None else None
        outdated = message.holder is None and message.highest_term >= message.term
        if peer.ask_again or (request.renew and self.holding):
            self._ask(peer_id, now)
        elif outdated and self.holding and not self._busy and not peer.raised:
            peer.raised = True  # the next time in the next round: a faulty peer cannot make us spin
            self._raise_term(now)

    # --- as a grantor

    def _received(self, peer_id: DeviceId, message: LeaseMessage, now: float) -> None:
        match message:
            case Campaign():
                if self._follow(message.term, now):
                    self._campaigned(peer_id, message, now)
                else:
                    self._deny(peer_id, message.term)
            case Renew():
                if self._follow(message.term, now):
                    self._renewed(peer_id, message.term, now)
                else:
                    self._deny(peer_id, message.term)
            case Release():
                self._released(peer_id, message.term, now)
            case Grant():
                self._granted(peer_id, message, now)
            case Deny():
                self._denied(peer_id, message, now)

    def _follow(self, term: int, now: float) -> bool:
        """Whether the highest term is at least `term` now; one that is far above is followed step by step."""
        if term > self._highest_term + NEAR_TERMS and now >= self._next_step_at:
            self._next_step_at = now + TERM_STEP_S
            self._highest_term = min(term, self._highest_term + TERM_STEP)
        if term <= self._highest_term + NEAR_TERMS:
            self._highest_term = max(self._highest_term, term)
        return term <= self._highest_term

    def _grantable(self, term: int, device: DeviceId) -> bool:
        last_term, last_device = self._last_granted
        return term > last_term or (term == last_term and device == last_device)

    def _yields(self, peer_id: DeviceId, campaign: Campaign) -> bool:
        """Whether this holder gives way to the campaign."""
        assert self._claim_term is not None
        if self._busy:
            return False
        if (campaign.reason == "prompt") != self._wanted:
            return not self._wanted
        return (campaign.term, self._me) > (self._claim_term, peer_id)

    def _campaigned(self, peer_id: DeviceId, campaign: Campaign, now: float) -> None:
        holder = self.coordinator
        if holder == self._me and self._yields(peer_id, campaign):
            self._give_up(f"it went to {peer_id}, who has a {campaign.reason} claim of term {campaign.term}")
        elif holder is not None and holder != peer_id:
            self._waiting[peer_id] = campaign
            self._deny(peer_id, campaign.term)
            return
        elif self._slot is not None and campaign.term < self._slot.term:
            self._deny(peer_id, campaign.term)  # a newer claim of the same device has overtaken it
            return
        self._lease_to(peer_id, campaign.term, now, asked=True)

    def _lease_to(self, peer_id: DeviceId, term: int, now: float, *, asked: bool) -> None:
        """Grant the free slot, or keep it for a device whose term is not new here.

        `asked`: a request of the peer is open. An answer that was not asked for would break the rule of one
        request, one answer: the RELEASE that went before tells the peer to ask again.
        """
        self._waiting.pop(peer_id, None)
        granted = asked and self._grantable(term, peer_id)
        self._slot = Slot(peer_id, term, now + self._settings.ttl_s, granted)
        if granted:
            self._last_granted = (term, peer_id)
            self._send(peer_id, Grant(term=term, ttl_s=self._settings.ttl_s))
        elif asked:
            self._send(peer_id, Deny(term=term, holder=None, highest_term=self._highest_term))

    def _deny(self, peer_id: DeviceId, term: int) -> None:
        holder = self.coordinator if self.coordinator != peer_id else None
        self._send(peer_id, Deny(term=term, holder=holder, highest_term=self._highest_term))

    def _renewed(self, peer_id: DeviceId, term: int, now: float) -> None:
        if self.coordinator == peer_id and self._grantable(term, peer_id):
            self._lease_to(peer_id, term, now, asked=True)
        else:
            self._deny(peer_id, term)

    def _released(self, peer_id: DeviceId, term: int, now: float) -> None:
        self._waiting.pop(peer_id, None)
        if self._slot is not None and self._slot.holder == peer_id:
            if term >= self._slot.term:  # not one that a newer grant has overtaken
                self._slot = None
                self._freed_by = peer_id
        elif self.holding and self._peers[peer_id].granted_until is None:
            self._ask(peer_id, now)  # its lease is free again
        elif self._slot is None and term == self._claim_term and peer_id == self._freed_by:
            self._take_own_slot(now)  # the last holder names this device as the next

    def _send(self, peer_id: DeviceId, message: LeaseMessage) -> None:
        self._actions.append(Send(peer_id, message))

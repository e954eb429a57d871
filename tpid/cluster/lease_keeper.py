"""The lease of this device: the election with its clock, its timer and what it wants done, and who sits out."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

from tpid.clock import awake_or_asleep_s
from tpid.cluster.changed import Changed
from tpid.cluster.election import Election
from tpid.cluster.handler import Handler
from tpid.cluster.lease import (
    Action,
    Busy,
    Disconnect,
    Event,
    Lease,
    LeaseLost,
    Send,
    Tick,
    Want,
)
from tpid.cluster.lease import Changed as LeaseChanged
from tpid.cluster.sit_out import SitOut
from tpid.comm.connection import Connection
from tpid.device import DeviceId, DeviceProfile, Role
from tpid.errors import DeviceLostError, LocalProtocolError, NotCoordinatorError

_logger = logging.getLogger(__name__)


class LeaseKeeper:
    """Feeds the election and does what it says. All calls are on the loop's thread."""

    def __init__(
        self,
        me: DeviceProfile,
        election: Election,
        peers: Callable[[], Mapping[DeviceId, Connection]],
        changed: Changed,
        quiet_s: float,
    ) -> None:
        """`changed` is notified of anything new; who says nothing about a lease for `quiet_s` sits out."""
        self.handler: Handler | None = None
        self._me = me
        self._election = election
        self._peers = peers
        self._changed = changed
        self._quiet_s = quiet_s
        self._waiting_prompts = 0
        self._sit_out = SitOut()
        self._actions: deque[Action] = deque()
        self._performing = False
        self._rearm = asyncio.Event()

    @property
    def held(self) -> Lease | None:
        """What this device may plan with now, without those that sit out; None unless it coordinates."""
        now_s = awake_or_asleep_s()
        lease = self._election.lease_at(now_s)
        out = self._sit_out.out(now_s)
        return replace(lease, devices=lease.devices - out.keys()) if lease is not None else None

    def sitting_out(self) -> Mapping[DeviceId, str]:
        """Why, by device."""
        return self._sit_out.out(awake_or_asleep_s())

    async def acquire(self, reason: Literal["prompt", "idle"] = "prompt", wait_s: float = 10.0) -> Lease:
        """Become the coordinator over all connected devices.

        For a prompt, this device is busy when the call returns, until `set_busy(False)`. Raises
        NotCoordinatorError: this is a helper; another device is busy; a device does not answer. May be cancelled.
        """
        if self._me.role is not Role.USER:
            raise NotCoordinatorError(
                f"Device {self._me.name} is a helper: it computes for others and takes no prompts.",
                hint="Type on a device of role user.",
            )
        prompt = reason == "prompt"
        self.feed(Tick())  # after this device stood still: what has lapsed is asked for anew, and waited for
        if prompt:
            self._wait_with_prompt(1)
        try:
            async with asyncio.timeout(wait_s):
                await self._answered()
            if prompt:
                self.feed(Busy(True))
            return self.held_lease()
        except TimeoutError:
            raise self._why_not(wait_s) from None
        finally:
            if prompt:
                self._wait_with_prompt(-1)

    async def _answered(self) -> None:
        """Until this device holds its lease and knows of all others; of those that say nothing, not for long."""
        while True:
            try:
                async with asyncio.timeout(self._quiet_s):
                    await self._changed.wait_for(self._may_start)
                    return
            except TimeoutError:
                if not self._election.holding or self._election.refusing:
                    continue  # the one who answers has a reason, and the caller's patience is longer
            for quiet in self._election.unanswered:
                self.blame(quiet, f"it did not say for {self._quiet_s:g} s whether it gives its lease")
            return

    def _may_start(self) -> bool:
        election = self._election
        quiet = election.unanswered - self.sitting_out().keys()
        return election.busy or (election.holding and not quiet and not election.refusing)

    def blame(self, device_id: DeviceId, reason: str) -> None:
        """The device did not do its part of a plan: it is no part of the lease for a while."""
        seconds = self._sit_out.blame(device_id, reason, awake_or_asleep_s())
        _logger.warning("sits_out device=%s seconds=%.0f reason=%r", self._name(device_id), seconds, reason)
        # In a later turn of the loop: whoever blames has first to say what has failed.
        asyncio.get_running_loop().call_soon(self._perform, LeaseChanged())

    def held_lease(self) -> Lease:
        lease = self.held
        if lease is None:
            raise LocalProtocolError("This device does not hold the lease.")
        return lease

    def _wait_with_prompt(self, more: int) -> None:
        self._waiting_prompts += more
        self.feed(Want(self._waiting_prompts > 0))

    def _why_not(self, wait_s: float) -> NotCoordinatorError:
        waited = f"this device has waited {wait_s:g} s for it"
        holder = self._election.coordinator
        if holder is not None and holder != self._me.id:
            return NotCoordinatorError(
                f"Device {self._name(holder)} coordinates and is busy; {waited}.",
                hint="Try again when it has answered.",
            )
        if self._election.unanswered:
            names = ", ".join(sorted(self._name(d) for d in self._election.unanswered))
            return NotCoordinatorError(
                f"No answer about the lease came from {names}; {waited}.",
                hint="Try again; if it stays so, start tpid there again.",
            )
        if self._election.refusing:
            refusing = sorted(f"{self._name(d)} (held by {self._name(h)})" for d, h in self._election.refusing.items())
            return NotCoordinatorError(
                f"The lease is not given by {', '.join(refusing)}; {waited}.",
                hint="Try again when the holder has answered.",
            )
        return NotCoordinatorError(f"No device coordinates; {waited}.", hint="Try again.")

    def _name(self, device_id: DeviceId) -> str:
        connection = self._peers().get(device_id)
        if connection is not None:
            return connection.peer.name
        return self._me.name if device_id == self._me.id else device_id

    async def keep_time(self) -> None:
        while True:
            self._rearm.clear()
            try:
                async with asyncio.timeout(self._until_deadline_s()):
                    await self._rearm.wait()
            except TimeoutError:
                self.feed(Tick())

    def _until_deadline_s(self) -> float | None:
        deadline_s = self._election.next_deadline()
        return None if deadline_s is None else max(0.0, deadline_s - awake_or_asleep_s())

    def feed(self, event: Event) -> None:
        """Raises what the machine raises; what is done about its actions cannot fail."""
        self._actions.extend(self._election.handle(event, awake_or_asleep_s()))
        self._rearm.set()
        if self._performing:
            return  # a handler called back: the loop below goes on with its actions
        self._performing = True
        try:
            while self._actions:
                self._perform(self._actions.popleft())
        finally:
            self._performing = False

    def _perform(self, action: Action) -> None:
        match action:
            case Send(peer_id, message):
                connection = self._peers().get(peer_id)
                if connection is not None:
                    with contextlib.suppress(DeviceLostError):  # `lost` tells
                        connection.send(message)
            case Disconnect(peer_id, reason):
                connection = self._peers().get(peer_id)
                if connection is not None:
                    connection.abort(DeviceLostError(f"Device {connection.peer.name} was cut off: {reason}."))
            case LeaseLost(reason):
                _logger.info("lease_lost device=%s reason=%s", self._me.id, reason)
                if self.handler is not None:
                    self.handler.lease_lost(reason)
            case LeaseChanged():
                lease = self.held
                granted = len(lease.devices) if lease else 0
                _logger.debug(
                    "lease device=%s holder=%s term=%d granted=%d",
                    self._me.id,
                    self._election.coordinator,
                    self._election.term,
                    granted,
                )
                self._changed.notify()
                if self.handler is not None:
                    self.handler.lease_changed()

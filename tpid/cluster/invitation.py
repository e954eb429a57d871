"""The one invitation that this device may have open: a machine, the channels of those who want in, and the roster."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final, TypeAlias

from tpid.clock import awake_or_asleep_s
from tpid.cluster.cluster import Cluster
from tpid.cluster.home import Home
from tpid.cluster.identity.certificate import device_id_of
from tpid.cluster.pairing.actions import Action, Admit, Close, Ended, Invited, Run, Send
from tpid.cluster.pairing.code import Code, make_code
from tpid.cluster.pairing.inviter import VALID_S, Inviter, Inviting
from tpid.cluster.pairing.messages import PairingMessage
from tpid.cluster.pairing_line import PairingLine
from tpid.cluster.roster.gossip import chain_to
from tpid.cluster.roster.names import free_name
from tpid.cluster.roster.roster import admit
from tpid.comm.tls_channel import TlsChannel
from tpid.device import MAX_NAME_BYTES, MAX_NAME_CHARS, Role, device_name
from tpid.errors import PairingError, RosterError, TpidError

MAX_LINES: Final = 8  # of joiners at a time; all but one are being told that another one is at it
_ROOM: Final = len("-999")  # for what makes a name free

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opened:
    """The invitation is open."""

    code: Code
    valid_s: float


@dataclass(frozen=True, slots=True)
class Tried:
    """A wrong code came."""

    address: str
    tries_left: int


_Arrival: TypeAlias = tuple[TlsChannel, str]
_Word: TypeAlias = tuple[Run, PairingMessage | TpidError | None]


class Invitation:
    """Opened by `run`, once; whoever stops iterating cancels it."""

    def __init__(self, cluster: Cluster, home: Home) -> None:
        self._cluster = cluster
        self._home = home
        self._inbox: asyncio.Queue[_Arrival | _Word] = asyncio.Queue()
        self._lines: dict[Run, PairingLine] = {}
        self._addresses: dict[Run, str] = {}
        self._runs = itertools.count(1)

    async def run(self, role: Role) -> AsyncGenerator[Opened | Tried | Invited, None]:
        """Until somebody is in, which is the last item. Raises PairingError for why nobody is; RosterError where this
        device may not invite."""
        home, me = self._home, self._home.me
        if me is None or me.role is not Role.USER:
            raise RosterError(
                "Only devices of the role user may invite others.", hint="Run this on a device that was paired as one."
            )
        if home.invites:
            raise PairingError("An invitation is open already.", hint="Use its code, or end it with Ctrl-C there.")
        code = make_code(os.urandom)
        inviting = Inviting(home.roster.home, home.id, me.name, role, self._free_name)
        machine = Inviter(code, inviting, entropy=os.urandom, now_s=awake_or_asleep_s())
        home.invites = True
        self._cluster.on_pairing = self._arrived
        try:
            async with self._cluster.opened():
                yield Opened(code, VALID_S)
                async for event in self._serve(machine):
                    yield event
        finally:
            home.invites = False
            for action in machine.cancel():
                self._perform(action)
            for line in self._lines.values():
                line.close()

    async def _serve(self, machine: Inviter) -> AsyncGenerator[Tried | Invited, None]:
        while True:
            tries_left = machine.tries_left
            actions = await self._next(machine)
            if machine.tries_left < tries_left and not any(isinstance(action, Admit) for action in actions):
                address = next((self._addresses[action.run] for action in actions if isinstance(action, Close)), "?")
                _logger.warning("pairing_wrong_code address=%s tries_left=%d", address, machine.tries_left)
                yield Tried(address, machine.tries_left)
            while actions:
                action = actions.pop(0)
                if isinstance(action, Admit):
                    actions += await self._admit(machine, action)
                elif isinstance(action, Ended):
                    if isinstance(action.outcome, Invited):
                        yield action.outcome
                        return
                    if isinstance(action.outcome, TpidError):
                        raise action.outcome
                else:
                    self._perform(action)

    async def _next(self, machine: Inviter) -> list[Action]:
        """What the machine wants done about the next thing that happens."""
        deadline_s = machine.deadline_s
        wait_s = None if deadline_s is None else max(0.0, deadline_s - awake_or_asleep_s())
        try:
            async with asyncio.timeout(wait_s):
                word = await self._inbox.get()
        except TimeoutError:
            return machine.tick(awake_or_asleep_s())
        now_s = awake_or_asleep_s()
        match word:
            case (TlsChannel() as channel, str(address)):
                return self._connected(machine, channel, address, now_s)
            case (int() as run, None):
                self._lines.pop(Run(run), None)
                return machine.lost(Run(run), now_s)
            case (int() as run, TpidError()):
                return machine.unreadable(Run(run), now_s)
            case (int() as run, message):
                return machine.received(Run(run), message, now_s)
        raise AssertionError(word)

    def _connected(self, machine: Inviter, channel: TlsChannel, address: str, now_s: float) -> list[Action]:
        run = Run(next(self._runs))
        self._addresses = {known: self._addresses[known] for known in self._lines} | {run: address}
        self._lines[run] = PairingLine(channel, lambda message: self._inbox.put_nowait((run, message)))
        return machine.connected(run, now_s)

    def _arrived(self, channel: TlsChannel, address: str) -> None:
        if not self._home.invites or len(self._lines) + self._inbox.qsize() >= MAX_LINES:
            channel.sock.close()
        else:
            self._inbox.put_nowait((channel, address))

    def _perform(self, action: Action) -> None:
        match action:
            case Send(run, message):
                if (line := self._lines.get(run)) is not None:
                    line.send(message)
            case Close(run):
                if (line := self._lines.pop(run, None)) is not None:
                    line.close()
            case _:
                pass

    async def _admit(self, machine: Inviter, admission: Admit) -> list[Action]:
        try:
            new = await self._home.change(
                lambda roster: admit(
                    roster,
                    self._home.identity,
                    certificate=admission.certificate,
                    name=admission.name,
                    role=admission.role,
                )
            )
        except TpidError as error:
            return machine.not_admitted(str(error))
        self._cluster.tell(new)
        device = device_id_of(admission.certificate)
        _logger.info("admitted device=%s name=%r role=%s", device, admission.name, admission.role)
        return machine.admitted(chain_to(self._home.roster, device), awake_or_asleep_s())

    def _free_name(self, wanted: str) -> str:
        short = device_name(wanted)[: MAX_NAME_CHARS - _ROOM]
        while len(short.encode()) > MAX_NAME_BYTES - _ROOM:
            short = short[:-1]
        return free_name(device_name(short) or "device", [member.name for member in self._home.members.values()])

"""How this device joins a home: it looks for the device that invites, proves the code, and keeps the home's roster."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Final

from tpid.clock import awake_or_asleep_s
from tpid.cluster.address import Address, parse_address
from tpid.cluster.cluster import Cluster
from tpid.cluster.home import Home
from tpid.cluster.identity.contexts import pairing_client
from tpid.cluster.pairing.actions import Action, Close, Ended, Joined, Send
from tpid.cluster.pairing.code import Code, parse_code
from tpid.cluster.pairing.joiner import Joiner
from tpid.cluster.pairing.messages import PairingMessage
from tpid.cluster.pairing_line import PairingLine
from tpid.cluster.whereabouts import Whereabouts
from tpid.comm.connection import format_address
from tpid.comm.dialling import dial_to_pair
from tpid.comm.settings import CommSettings
from tpid.comm.tls_channel import TlsChannel
from tpid.comm.tls_handshake import Door
from tpid.errors import ConfigError, PairingBusyError, PairingError, TpidError

FIND_S: Final = 20.0  # an invitation that is announced is found within two seconds
_AGAIN_S: Final = 0.5
_BUSY_AGAIN_S: Final = 0.25  # an inviter serves one joiner in 0.2 s
BUSY_S: Final = 60.0  # that an inviter is asked again; one joiner may keep it for half of that

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Looking:
    """For the device that invites; `seen` are those that do not."""

    seen: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """It is being talked to."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """Another device is just pairing with it; it is asked again."""

    name: str


class Joining:
    """One try to join; the new home is this device's from its next start on."""

    def __init__(self, cluster: Cluster, home: Home, settings: CommSettings | None = None) -> None:
        self._cluster = cluster
        self._home = home
        self._settings = settings or CommSettings()

    async def run(self, typed: str, address: str | None) -> AsyncGenerator[Looking | Found | Waiting | Joined, None]:
        """Until this device is in, which is the last item. Raises PairingError, and other TpidErrors of the way."""
        code = parse_code(typed)
        others = sorted(member.name for member in self._home.members.values() if member.id != self._home.id)
        if others:
            raise PairingError(
                f"This device belongs to a home already, with {', '.join(others)}.",
                hint="Leave that home first: `tpictl leave`.",
            )
        async with self._cluster.opened():
            if address is not None:
                name, channel, where = address, await self._knock(parse_given(address)), parse_given(address)[0]
            else:
                async for step in self._find():
                    if isinstance(step, Looking):
                        yield step
                    else:
                        name, channel, where = step
            yield Found(name, str(where))
            async for event in self._ask(code, name, channel, where):
                yield event

    async def _ask(
        self, code: Code, name: str, channel: TlsChannel, where: Address
    ) -> AsyncGenerator[Waiting | Joined, None]:
        """To be taken in; again while the inviter is pairing with another device. Raises like `run`."""
        asked_until_s = awake_or_asleep_s() + BUSY_S
        waits = False
        while True:
            try:
                joined = await self._prove(code, channel, where)
            except PairingBusyError:
                if awake_or_asleep_s() > asked_until_s:
                    raise
            else:
                _logger.info("joined inviter=%s name=%r role=%s", joined.inviter, joined.name, joined.role)
                yield joined
                return
            if not waits:
                waits = True
                yield Waiting(name)
            await asyncio.sleep(_BUSY_AGAIN_S)
            channel = await self._knock([where])

    async def _find(self) -> AsyncGenerator[Looking | tuple[str, TlsChannel, Address], None]:
        """Raises PairingError where no device invites, or more than one does."""
        looked_until_s = awake_or_asleep_s() + FIND_S
        told: tuple[str, ...] | None = None
        while True:
            strangers = self._cluster.strangers()
            names = tuple(sorted({sighting.advert.name for sighting in strangers}))
            if names != told:
                told = names
                yield Looking(names)
            knocks = {
                sighting.service: asyncio.create_task(self._knock(sighting.addresses), name=f"knock-{sighting.service}")
                for sighting in strangers
            }
            try:
                if knocks:
                    await asyncio.wait(knocks.values())
                opened = [s for s in strangers if knocks[s.service].exception() is None]
            except BaseException:
                for knock in knocks.values():
                    knock.cancel()
                raise
            channels = [knocks[sighting.service].result() for sighting in opened]
            if len(opened) == 1:
                host, port = channels[0].sock.getpeername()[:2]
                yield opened[0].advert.name, channels[0], Address(str(host), int(port))
                return
            for channel in channels:
                channel.sock.close()
            if opened:
                where = ", ".join(f"{sighting.advert.name} at {sighting.addresses[0]}" for sighting in opened)
                raise PairingError(
                    f"More than one device invites: {where}.", hint="Say which: `tpictl join CODE --address HOST:PORT`."
                )
            if awake_or_asleep_s() > looked_until_s:
                raise self._nobody(names)
            await asyncio.sleep(_AGAIN_S)

    def _nobody(self, names: Sequence[str]) -> PairingError:
        if names:
            return PairingError(
                f"No invitation is open in this network; seen without one: {', '.join(names)}.",
                hint="Run `tpictl invite` on a device of the home, and give the code that it shows.",
            )
        return PairingError(
            f"No other tpid was found in this network within {FIND_S:g} s.",
            hint="Run `tpictl invite` on a device of the home. Where mDNS does not get through, give its address: "
            "`tpictl join CODE --address HOST:7474`. `tpictl doctor` tells what is in the way.",
        )

    async def _knock(self, addresses: Sequence[Address]) -> TlsChannel:
        door = Door(pairing_client(), lambda certificate: certificate is not None)
        return await dial_to_pair([(address.host, address.port) for address in addresses], door, self._settings)

    async def _prove(self, code: Code, channel: TlsChannel, where: Address) -> Joined:
        certificate = channel.peer_certificate
        me = self._home.me
        if certificate is None or me is None:
            channel.sock.close()
            raise PairingError("The other device showed no certificate.", hint="Compare the versions of both.")
        inbox: asyncio.Queue[PairingMessage | TpidError | None] = asyncio.Queue()
        line = PairingLine(channel, inbox.put_nowait)
        try:
            machine = Joiner(code, self._home.identity, me.name, inviter_certificate=certificate, entropy=os.urandom)
            actions = machine.start(awake_or_asleep_s())
            while True:
                outcome = await self._perform(actions, line, where)
                if outcome is not None:
                    return outcome
                actions = await self._next(machine, inbox)
        finally:
            line.close()
            await line.closed()

    async def _next(self, machine: Joiner, inbox: asyncio.Queue[PairingMessage | TpidError | None]) -> list[Action]:
        deadline_s = machine.deadline_s
        wait_s = None if deadline_s is None else max(0.0, deadline_s - awake_or_asleep_s())
        try:
            async with asyncio.timeout(wait_s):
                message = await inbox.get()
        except TimeoutError:
            return machine.tick(awake_or_asleep_s())
        if message is None:
            return machine.lost()
        if isinstance(message, TpidError):
            return machine.unreadable()
        return machine.received(message, awake_or_asleep_s())

    async def _perform(self, actions: Sequence[Action], line: PairingLine, where: Address) -> Joined | None:
        """The home is kept before the inviter hears that this device is in."""
        outcome = next((action.outcome for action in actions if isinstance(action, Ended)), None)
        if isinstance(outcome, Joined):
            await self._home.move(outcome.roster, Whereabouts({outcome.inviter: (where,)}))
        for action in actions:
            match action:
                case Send(_, message):
                    line.send(message)
                case Close():
                    line.close()
                case _:
                    pass
        if isinstance(outcome, TpidError):
            raise outcome
        return outcome if isinstance(outcome, Joined) else None


def parse_given(text: str) -> list[Address]:
    """An address as a person gives it; the port may be missing. Raises ConfigError."""
    try:
        return [parse_address(text)]
    except ConfigError:
        bare = text.strip().strip("[]")
        return [parse_address(format_address(bare, 7474))]

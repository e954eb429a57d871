"""Two devices pair over real TLS on 127.0.0.1, then meet as members; a proxy in between, with TLS on both sides."""

import asyncio
import os
import time
from collections.abc import Awaitable
from pathlib import Path

import pytest

from tests.integration.stream_ends import tcp_pair, within_a_minute
from tpid.cluster.identity.certificate import fingerprint
from tpid.cluster.identity.contexts import member_client, member_server, pairing_client, pairing_server
from tpid.cluster.identity.identity import Identity, load_or_create_identity
from tpid.cluster.pairing.actions import Action, Admit, Close, Ended, Invited, Joined, Run, Send
from tpid.cluster.pairing.code import Code, make_code, parse_code
from tpid.cluster.pairing.inviter import Inviter, Inviting
from tpid.cluster.pairing.joiner import Joiner
from tpid.cluster.pairing.messages import PairingMessage
from tpid.cluster.pairing_line import PairingLine
from tpid.cluster.roster.gossip import chain_to
from tpid.cluster.roster.names import free_name
from tpid.cluster.roster.roster import Roster, admit, found, revoke
from tpid.cluster.roster.store import load_roster, save_roster
from tpid.comm.opening import Purpose
from tpid.comm.tls_channel import TlsChannel
from tpid.comm.tls_handshake import Door, answer_tls, dial_tls
from tpid.device import Role
from tpid.errors import NotPairedError, PairingError, TpidError

run = within_a_minute(asyncio.run)


class Line(PairingLine):
    """Keeps what comes, for a test to wait on and to look at."""

    def __init__(self, channel: TlsChannel) -> None:
        self.channel = channel
        self.messages: asyncio.Queue[PairingMessage | TpidError | None] = asyncio.Queue()  # None at the end
        self.raw = bytearray()
        super().__init__(channel, self.messages.put_nowait)

    def buffer_updated(self, n_bytes: int) -> None:
        self.raw += self.get_buffer()[:n_bytes]
        super().buffer_updated(n_bytes)

    def connection_lost(self, error: OSError | None) -> None:
        super().connection_lost(error)
        self.messages.put_nowait(None)  # also where this side has closed it

    async def message(self) -> PairingMessage | None:
        message = await self.messages.get()
        assert not isinstance(message, TpidError), message
        return message


async def channels(purpose: Purpose, listener: Door, dialler: Door) -> tuple[TlsChannel, TlsChannel]:
    ours, theirs = tcp_pair()
    ours.setblocking(False)
    theirs.setblocking(False)
    (answered_to, first), second = await asyncio.gather(
        answer_tls(ours, {purpose: listener}, peer_address="dialler", timeout_s=5),
        dial_tls(theirs, purpose, dialler, peer_address="listener", timeout_s=5),
    )
    assert answered_to is purpose
    return first, second


async def pairing_channels(server: Identity) -> tuple[TlsChannel, TlsChannel]:
    """The listener shows the certificate of `server`."""
    return await channels(
        Purpose.PAIRING, Door(pairing_server(server), lambda _: True), Door(pairing_client(), lambda _: True)
    )


async def invite(line: Line, identity: Identity, roster: Roster, code: Code) -> tuple[Roster, object]:
    """The roster afterwards, and the outcome."""
    inviting = Inviting(
        roster.home,
        identity.id,
        roster.members[identity.id].name,
        Role.HELPER,
        lambda name: free_name(name, [member.name for member in roster.members.values()]),
    )
    machine = Inviter(code, inviting, entropy=os.urandom, now_s=time.monotonic())
    todo: list[Action] = machine.connected(Run(1), time.monotonic())
    while True:
        for action in todo:
            match action:
                case Send(_, message):
                    line.send(message)
                case Close():
                    line.close()
                case Admit(_, certificate, name, role):
                    roster = admit(roster, identity, certificate=certificate, name=name, role=role)
                    (new,) = set(roster.members) - {identity.id}
                    todo += machine.admitted(chain_to(roster, new), time.monotonic())
                case Ended(outcome):
                    return roster, outcome
        received = await line.message()
        now_s = time.monotonic()
        if received is None:
            todo = machine.lost(Run(1), now_s)
            if not machine.has_ended:
                return roster, None
        else:
            todo = machine.received(Run(1), received, now_s)


async def join(line: Line, identity: Identity, code: Code) -> Joined | PairingError:
    certificate = line.channel.peer_certificate
    assert certificate is not None
    machine = Joiner(code, identity, "pi", inviter_certificate=certificate, entropy=os.urandom)
    todo = machine.start(time.monotonic())
    while True:
        for action in todo:
            match action:
                case Send(_, message):
                    line.send(message)
                case Close():
                    line.close()
                case Ended(outcome):
                    assert isinstance(outcome, Joined | PairingError)
                    return outcome
        received = await line.message()
        todo = machine.lost() if received is None else machine.received(received, time.monotonic())


def member_channels(
    server: Identity, server_roster: Roster, client: Identity, client_roster: Roster
) -> Awaitable[tuple[TlsChannel, TlsChannel]]:
    return channels(
        Purpose.MEMBER,
        Door(member_server(server, server_roster.certificates), lambda der: der in server_roster.certificates),
        Door(member_client(client, client_roster.certificates), lambda der: der in client_roster.certificates),
    )


def test_two_devices_pair_and_meet_as_members_until_one_is_removed(tmp_path: Path) -> None:
    laptop, pi = (load_or_create_identity(tmp_path / name) for name in ("laptop", "pi"))
    code = make_code(os.urandom)

    async def test() -> None:
        roster = found(laptop, "laptop")
        with pytest.raises(NotPairedError):
            await member_channels(laptop, roster, pi, found(pi, "pi"))
        listener, dialler = await pairing_channels(laptop)
        (roster, invited), joined = await asyncio.gather(
            invite(Line(listener), laptop, roster, code), join(Line(dialler), pi, parse_code(code.upper()))
        )
        assert invited == Invited(pi.id, "pi", Role.HELPER, acknowledged=True)
        assert isinstance(joined, Joined)
        assert fingerprint(joined.inviter) == fingerprint(laptop.id)
        save_roster(tmp_path / "pi", joined.roster)
        kept = load_roster(tmp_path / "pi")
        assert kept == roster
        for pair in (member_channels(laptop, roster, pi, kept), member_channels(pi, kept, laptop, roster)):
            for channel in await pair:
                channel.sock.close()
        without = revoke(roster, laptop, pi.id)
        with pytest.raises(NotPairedError, match=r"does not (belong|count)"):
            await member_channels(laptop, without, pi, kept)

    run(test())


def test_a_proxy_with_tls_on_both_sides_gets_neither_in_nor_the_code(tmp_path: Path) -> None:
    laptop, pi, proxy = (load_or_create_identity(tmp_path / name) for name in ("laptop", "pi", "proxy"))
    code = make_code(os.urandom)

    async def carry(source: Line, target: Line) -> None:
        while (message := await source.message()) is not None:
            target.send(message)
        target.close()

    async def test() -> None:
        roster = found(laptop, "laptop")
        listener, to_laptop = await pairing_channels(laptop)
        to_pi, dialler = await pairing_channels(proxy)
        inner, outer = Line(to_laptop), Line(to_pi)
        carrying = [asyncio.create_task(carry(inner, outer)), asyncio.create_task(carry(outer, inner))]
        (after, outcome), joined = await asyncio.gather(
            invite(Line(listener), laptop, roster, code), join(Line(dialler), pi, code)
        )
        assert isinstance(joined, PairingError)
        assert outcome is None  # the invitation is open, with a try less
        assert after == roster
        seen = bytes(inner.raw + outer.raw)
        for part in code.split("-"):
            assert part.encode() not in seen
        await asyncio.gather(*carrying)

    run(test())

"""Devices of one home in one process: real TLS and real TCP on loopback. And who does not belong to it."""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.paired_home import PairedHome
from tests.integration.stream_ends import within_a_minute
from tpid.cluster.address import Address
from tpid.cluster.backoff import Backoff
from tpid.cluster.cluster import Cluster
from tpid.cluster.home import Home
from tpid.cluster.identity.contexts import pairing_client
from tpid.cluster.invitation import Invitation, Opened, Tried
from tpid.cluster.joining import Found, Joining, Looking, Waiting
from tpid.cluster.lease import ElectionSettings
from tpid.cluster.pairing.actions import Invited, Joined
from tpid.cluster.pairing.code import Code, make_code
from tpid.cluster.roster.roster import revoke
from tpid.cluster.settings import ClusterSettings
from tpid.comm.connection import Connection
from tpid.comm.dialling import dial, dial_to_pair
from tpid.comm.frames import PREFIX, encode_message
from tpid.comm.messages import Campaign, Hello, Kind, RosterNews, Seen
from tpid.comm.opening import closed
from tpid.comm.settings import CommSettings
from tpid.comm.tls_handshake import Door
from tpid.device import DeviceProfile, Role
from tpid.errors import DeviceLostError, NotPairedError, PairingError, RefusedError, RemoteProtocolError, RosterError

run = within_a_minute(asyncio.run)
ELECTION = ElectionSettings(ttl_s=4.0, idle_delay_s=0.05, idle_jitter_s=0.1)
BACKOFF = Backoff(first_s=0.02, most_s=0.2)
N_GUESSES = int(os.environ.get("TPID_GUESSES", "15"))  # 1000 take some minutes
NAMES = {"desk": Role.USER, "laptop": Role.USER, "pi": Role.HELPER}


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[dict[str, Home]]:
    """Of three paired devices, as each has it on its disk."""
    with PairedHome(NAMES) as paired:
        for name in NAMES:
            paired.furnish(name, tmp_path / name)
        yield {name: Home.load(tmp_path / name, name) for name in NAMES}


def profile_of(home: Home) -> DeviceProfile:
    assert home.me is not None
    return DeviceProfile(home.id, home.me.name, home.me.role, "0.1.0", 8 << 30, 4 << 30, 100 << 30, 4, 1.5e9, "native")


def cluster_of(home: Home, *peers: Cluster, **more: Any) -> Cluster:
    static = tuple(f"127.0.0.1:{peer.port}" for peer in peers)
    settings = ClusterSettings("home", mdns=False, static_peers=static, election=ELECTION, backoff=BACKOFF, **more)
    return Cluster(settings, profile_of(home), home)


async def dialled(cluster: Cluster, home: Home) -> Connection:
    """As the device of `home`, which then plays by rules of the test."""
    hello = Hello(cluster=cluster.name, profile=profile_of(home))
    return await dial([("127.0.0.1", cluster.port)], lambda: hello, CommSettings(), trust=home)


async def all_up(stack: AsyncExitStack, homes: dict[str, Home]) -> list[Cluster]:
    clusters: list[Cluster] = []
    for home in homes.values():
        clusters.append(await stack.enter_async_context(cluster_of(home, *clusters[:1])))
    for cluster in clusters:  # the two that dialled the first learn from it where the other one is
        await cluster.wait_for(lambda c=cluster: len(c.peers) == len(homes) - 1)  # type: ignore[misc]
    return clusters


def test_members_meet_by_one_address_and_one_coordinates(homes: dict[str, Home]) -> None:
    async def test() -> None:
        async with AsyncExitStack() as stack:
            desk, laptop, pi = await all_up(stack, homes)
            await desk.acquire()
            lease = desk.lease
            assert lease is not None
            assert lease.devices == {cluster.me.id for cluster in (desk, laptop, pi)}
            desk.set_busy(False)

    run(test())


def test_who_is_put_out_is_cut_everywhere_and_knows_it(homes: dict[str, Home]) -> None:
    async def test() -> None:
        async with AsyncExitStack() as stack:
            desk, laptop, pi = await all_up(stack, homes)
            left = asyncio.Event()
            pi.on_left = left.set
            home = homes["desk"]
            desk.tell(await home.change(lambda roster: revoke(roster, home.identity, pi.me.id)))
            await asyncio.gather(
                left.wait(),
                desk.wait_for(lambda: pi.me.id not in desk.peers),
                laptop.wait_for(lambda: pi.me.id not in laptop.peers),
            )
            assert pi.me.id not in homes["laptop"].members
            assert laptop.me.id in desk.peers

    run(test())


def test_members_say_whether_they_reach_each_other(homes: dict[str, Home]) -> None:
    async def test() -> None:
        async with AsyncExitStack() as stack:
            desk, laptop, pi = await all_up(stack, homes)
            with socket.socket() as bound:  # nothing listens there
                bound.bind(("127.0.0.1", 0))
                nowhere = Address("127.0.0.1", bound.getsockname()[1])
                homes["pi"].whereabouts.reached(desk.me.id, nowhere)
                homes["desk"].whereabouts.reached(laptop.me.id, nowhere)
                one, other = await asyncio.gather(desk.facts({}), desk.facts({}))
            for facts in (one, other):
                members = {member.id: member for member in facts.members}
                here = f"127.0.0.1:{desk.port}"
                assert members[pi.me.id].seen == Seen(
                    announced=False, reached=[here], not_reached={str(nowhere): "nothing listens there"}
                )
                assert members[laptop.me.id].not_reached == {str(nowhere): "nothing listens there"}
                assert str(nowhere) in members[laptop.me.id].known_addresses

    run(test())


class Stranger:
    """Whoever dials, with TLS of its own or without."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 5)

    def answer_to(self, data: bytes) -> bytes:
        """All that comes until the end."""
        with self.socket, contextlib.suppress(ConnectionResetError):
            self.socket.sendall(data)
            answer = b""
            while more := self.socket.recv(65536):
                answer += more
            return answer
        return b""


def test_a_stranger_gets_no_byte_of_any_frame(homes: dict[str, Home]) -> None:
    async def test() -> None:
        async with cluster_of(homes["desk"]) as desk:
            hello = encode_message(Hello(cluster=desk.name, profile=profile_of(homes["pi"])))
            old = PREFIX.pack(b"TP", 1, Kind.HELLO, 4, 0) + b"\xff" * 4
            for data, answers in (
                (b"GET / HTTP/1.1\r\n\r\n", {b""}),
                (hello, {b""}),
                (old, {closed()}),  # which tells our version
                (PREFIX.pack(b"TP", 2, 9, 0, 0), {closed()}),  # to pair, without an invitation
            ):
                answer = await asyncio.to_thread(Stranger(desk.port).answer_to, data)
                assert answer in answers, data
            assert not desk.peers

    run(test())


def test_a_device_of_another_home_with_the_same_name_is_not_let_in(homes: dict[str, Home], tmp_path: Path) -> None:
    stranger = Home.load(tmp_path / "stranger", "pi")

    async def test() -> None:
        async with cluster_of(homes["desk"]) as desk:
            with pytest.raises(NotPairedError):
                await dial(
                    [("127.0.0.1", desk.port)],
                    lambda: Hello(cluster=desk.name, profile=profile_of(stranger)),
                    CommSettings(),
                    trust=stranger,
                )
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # that takes any certificate, and shows its own
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.load_cert_chain(stranger.identity.path)

            def speak() -> bytes:
                with socket.create_connection(("127.0.0.1", desk.port), 5) as plain:
                    plain.sendall(PREFIX.pack(b"TP", 2, 8, 0, 0))
                    try:
                        with context.wrap_socket(plain) as tls:
                            return tls.recv(1000)
                    except (ssl.SSLError, ConnectionResetError):
                        return b""

            assert await asyncio.to_thread(speak) == b""
            assert not desk.peers

    run(test())


@pytest.mark.parametrize(
    ("claim", "code"),
    [({"id": "0" * 64}, "not_proven"), ({"role": Role.USER}, "not_granted")],
)
def test_a_member_is_who_its_certificate_says_and_no_more(
    homes: dict[str, Home], claim: dict[str, Any], code: str
) -> None:
    async def test() -> None:
        async with cluster_of(homes["desk"]) as desk:
            claimed = replace(profile_of(homes["pi"]), **claim)
            with pytest.raises(RefusedError) as caught:
                await dial(
                    [("127.0.0.1", desk.port)],
                    lambda: Hello(cluster=desk.name, profile=claimed),
                    CommSettings(),
                    trust=homes["pi"],
                )
            assert caught.value.reason_code == code
            assert not desk.peers

    run(test())


class Recorder:
    def __init__(self) -> None:
        self.ended: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    def payload_buffer(self, *_: object) -> memoryview | None:
        return None

    def received(self, *_: object) -> None: ...

    def lost(self, connection: object, error: Exception) -> None:
        self.ended.set_result(error)


def test_a_helper_that_campaigns_gets_no_lease_and_brings_nobody_in(homes: dict[str, Home], tmp_path: Path) -> None:
    """It is paired, and plays by other rules."""
    forged = Home.load(tmp_path / "forged", "evil").roster

    async def test() -> None:
        pi = homes["pi"]
        async with cluster_of(homes["desk"]) as desk:
            connection = await dialled(desk, pi)
            recorder = Recorder()
            connection.set_receiver(recorder)  # type: ignore[arg-type]
            await desk.wait_for(lambda: pi.id in desk.peers)
            members = dict(homes["desk"].members)
            connection.send(Campaign(term=10**6, reason="prompt"))
            (statement,) = forged.statements
            ours = replace(statement, home=homes["desk"].roster.home)
            data = ours.unsigned() + ours.signature
            message = ours.home + (1).to_bytes(2, "big") + len(data).to_bytes(2, "big") + data
            with contextlib.suppress(DeviceLostError):
                for _ in range(10):
                    connection.send(RosterNews(statements=message))
            error = await recorder.ended
            assert isinstance(error, DeviceLostError | RemoteProtocolError)
            assert desk.coordinator != pi.id
            assert homes["desk"].members == members

    run(test())


def test_a_member_that_never_says_whether_it_gives_its_lease_keeps_no_prompt_waiting_twice(
    homes: dict[str, Home],
) -> None:
    async def test() -> None:
        pi = homes["pi"]
        async with cluster_of(homes["desk"], quiet_s=1.0) as desk:
            connection = await dialled(desk, pi)
            connection.set_receiver(Recorder())  # type: ignore[arg-type]
            await desk.wait_for(lambda: pi.id in desk.peers)
            lease = await desk.acquire()
            assert lease.devices == {desk.me.id}
            desk.set_busy(False)
            (told,) = [device.sits_out for device in desk.status().devices if device.profile.id == pi.id]
            assert told is not None
            assert "whether it gives its lease" in told
            again = asyncio.create_task(desk.acquire())
            async with asyncio.timeout(0.9):  # less than it waits for one that may still answer
                assert (await again).devices == {desk.me.id}
            desk.set_busy(False)
            await connection.close("done")

    run(test())


# --- pairing


async def invite(cluster: Cluster, home: Home, role: Role, opened: "asyncio.Future[Code]") -> list[Tried | Invited]:
    events: list[Tried | Invited] = []
    async for event in Invitation(cluster, home).run(role):
        if isinstance(event, Opened):
            opened.set_result(event.code)
        else:
            events.append(event)
    return events


async def join(cluster: Cluster, home: Home, code: str, inviter: Cluster) -> Joined:
    async for event in Joining(cluster, home).run(code, f"127.0.0.1:{inviter.port}"):
        if isinstance(event, Joined):
            return event
    raise AssertionError


def test_one_code_pairs_two_strangers(tmp_path: Path) -> None:
    async def test() -> None:
        desk, pi = Home.load(tmp_path / "desk", "desk"), Home.load(tmp_path / "pi", "desk")
        async with cluster_of(desk) as inviter, cluster_of(pi) as joiner:
            opened: asyncio.Future[Code] = asyncio.get_running_loop().create_future()
            invitation = asyncio.create_task(invite(inviter, desk, Role.HELPER, opened))
            with pytest.raises(PairingError, match="not the one"):
                await join(joiner, pi, make_code(lambda n: b"\x07" * n), inviter)
            joined = await join(joiner, pi, await opened, inviter)
            *tried, invited = await invitation
            assert [event.tries_left for event in tried if isinstance(event, Tried)] == [2]
            assert isinstance(invited, Invited)
            assert (invited.device, invited.name, invited.role) == (pi.id, "desk-2", Role.HELPER)
            assert (joined.inviter, joined.name, joined.role) == (desk.id, "desk-2", Role.HELPER)
            with pytest.raises(PairingError, match="no invitation"):
                await join(joiner, pi, await opened, inviter)
        again = Home.load(tmp_path / "pi", "desk")
        assert again.fingerprint == desk.fingerprint
        async with cluster_of(desk) as first, cluster_of(again, first) as second:
            await first.wait_for(lambda: again.id in first.peers)
            assert second.me.role is Role.HELPER

    run(test())


def test_who_comes_while_another_device_pairs_waits_and_is_taken_in(tmp_path: Path) -> None:
    async def test() -> None:
        desk, pi = Home.load(tmp_path / "desk", "desk"), Home.load(tmp_path / "pi", "pi")
        async with cluster_of(desk) as inviter, cluster_of(pi) as joiner:
            opened: asyncio.Future[Code] = asyncio.get_running_loop().create_future()
            invitation = asyncio.create_task(invite(inviter, desk, Role.HELPER, opened))
            code = await opened
            door = Door(pairing_client(), lambda certificate: certificate is not None)
            other = await dial_to_pair([("127.0.0.1", inviter.port)], door, CommSettings())  # and says nothing
            events: list[Looking | Found | Waiting | Joined] = []
            async for event in Joining(joiner, pi).run(code, f"127.0.0.1:{inviter.port}"):
                events.append(event)
                if isinstance(event, Waiting):
                    other.sock.close()
            assert [type(event) for event in events] == [Found, Waiting, Joined]
            assert isinstance((await invitation)[-1], Invited)

    run(test())


def test_guesses_get_in_with_none(tmp_path: Path) -> None:
    """Three for each invitation, and then the next one."""

    async def test() -> None:
        desk, evil = Home.load(tmp_path / "desk", "desk"), Home.load(tmp_path / "evil", "evil")
        guesses = 0
        async with cluster_of(desk) as inviter, cluster_of(evil) as guesser:
            while guesses < N_GUESSES:
                opened: asyncio.Future[Code] = asyncio.get_running_loop().create_future()
                invitation = asyncio.create_task(invite(inviter, desk, Role.HELPER, opened))
                code = await opened
                for _ in range(3):
                    guess = make_code(os.urandom)
                    assert guess != code
                    with pytest.raises(PairingError, match="not the one"):
                        await join(guesser, evil, guess, inviter)
                    guesses += 1
                with pytest.raises(PairingError, match="3 wrong codes"):
                    await invitation
            assert set(desk.members) == {desk.id}

    asyncio.run(asyncio.wait_for(test(), 60 + N_GUESSES))


def test_who_may_not_invite_is_told(homes: dict[str, Home]) -> None:
    async def test() -> None:
        async with cluster_of(homes["pi"]) as pi:
            with pytest.raises(RosterError, match="role user"):
                await anext(Invitation(pi, homes["pi"]).run(Role.HELPER))
            with pytest.raises(PairingError, match="belongs to a home already, with desk, laptop"):
                await anext(Joining(pi, homes["pi"]).run("walnut-canyon-48213", "127.0.0.1"))

    run(test())


def test_two_invitations_at_once_are_refused_and_a_cancelled_one_is_over(tmp_path: Path) -> None:
    async def test() -> None:
        desk = Home.load(tmp_path / "desk", "desk")
        async with cluster_of(desk) as cluster:
            first = Invitation(cluster, desk).run(Role.HELPER)
            assert isinstance(await anext(first), Opened)
            with pytest.raises(PairingError, match="open already"):
                await anext(Invitation(cluster, desk).run(Role.HELPER))
            await first.aclose()
            assert not desk.invites
            second = Invitation(cluster, desk).run(Role.USER)
            assert isinstance(await anext(second), Opened)
            await second.aclose()

    run(test())

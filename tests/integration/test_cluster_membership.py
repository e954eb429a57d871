"""Several clusters' devices in one process: real TCP and real mDNS, both on loopback only."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from tpid.cluster.address import Address
from tpid.cluster.advert import decode_advert, encode_advert
from tpid.cluster.backoff import Backoff
from tpid.cluster.cluster import Cluster
from tpid.cluster.discovery import SERVICE_TYPE, Sighting, Site, _label
from tpid.cluster.lease import ElectionSettings
from tpid.cluster.settings import ClusterSettings
from tpid.comm.connection import Connection
from tpid.comm.dialling import dial
from tpid.comm.messages import Hello, Kind, Unload
from tpid.comm.settings import CommSettings
from tpid.device import DeviceId, DeviceProfile, Role
from tpid.errors import (
    DeviceLostError,
    ListenError,
    LocalProtocolError,
    NotCoordinatorError,
    RefusedError,
    TpidError,
)

PATIENCE_S = 30.0  # a test that waits longer has failed
ELECTION = ElectionSettings(ttl_s=4.0, idle_delay_s=0.05, idle_jitter_s=0.1)
BACKOFF = Backoff(first_s=0.02, most_s=0.2)


def run(test: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await test

    asyncio.run(bounded())


@pytest.fixture
def cluster_name() -> str:
    return f"test-{secrets.token_hex(4)}"


def profile(name: str, role: Role = Role.USER, device_id: str | None = None) -> DeviceProfile:
    return DeviceProfile(
        id=DeviceId(device_id or secrets.token_hex(32)),
        name=name,
        role=role,
        version="0.1.0",
        ram_bytes=8 << 30,
        budget_bytes=4 << 30,
        disk_free_bytes=100 << 30,
        threads=4,
        read_bytes_s=1.5e9,
        backend="torch",
    )


def make(cluster: str, who: DeviceProfile, **settings: Any) -> Cluster:
    return Cluster(ClusterSettings(name=cluster, election=ELECTION, backoff=BACKOFF, **settings), who)


async def complete(clusters: list[Cluster]) -> None:
    """All are connected, one coordinates, and all have given it their lease."""
    for cluster in clusters:
        await cluster.wait_for(lambda c=cluster: len(c.peers) == len(clusters) - 1)
    everybody = {c.me.id for c in clusters}

    def agreed() -> bool:
        holders = [c for c in clusters if c.lease is not None]
        return (
            len(holders) == 1
            and holders[0].lease is not None
            and holders[0].lease.devices == everybody
            and {c.coordinator for c in clusters} == {holders[0].me.id}
        )

    waits = [asyncio.create_task(cluster.wait_for(agreed)) for cluster in clusters]  # the last change is anyone's
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


def holder(clusters: list[Cluster]) -> Cluster:
    (only,) = (c for c in clusters if c.lease is not None)
    return only


@asynccontextmanager
async def announced(instance: str, properties: dict[str, Any], *, host: str | None = None) -> AsyncIterator[None]:
    """By mDNS, at a port where nobody is."""
    mdns = AsyncZeroconf(interfaces=["127.0.0.1"])
    try:
        await mdns.async_register_service(
            AsyncServiceInfo(
                SERVICE_TYPE,
                f"{instance}.{SERVICE_TYPE}",
                port=9,
                properties=properties,
                server=f"{host or instance}.local.",
                parsed_addresses=["127.0.0.1"],
            )
        )
        yield
    finally:
        await mdns.async_close()


class Recorder:
    """A handler that keeps what it is told."""

    def __init__(self) -> None:
        self.frames: list[tuple[DeviceId, Kind, object]] = []
        self.joined: list[DeviceId] = []
        self.lost: list[tuple[DeviceId, TpidError]] = []
        self.lease_losses: list[str] = []
        self.n_lease_changes = 0
        self.arrived = asyncio.Event()

    def payload_buffer(self, *_: object) -> memoryview | None:
        return None

    def received(self, connection: Connection, kind: Kind, message: object, payload: memoryview | None) -> None:
        self.frames.append((connection.peer.id, kind, message))
        self.arrived.set()

    def peer_joined(self, connection: Connection) -> None:
        self.joined.append(connection.peer.id)

    def peer_lost(self, connection: Connection, error: TpidError) -> None:
        self.lost.append((connection.peer.id, error))

    def lease_lost(self, reason: str) -> None:
        self.lease_losses.append(reason)

    def lease_changed(self) -> None:
        self.n_lease_changes += 1


def test_devices_find_each_other_and_one_user_device_coordinates(cluster_name: str) -> None:
    async def test() -> None:
        async with AsyncExitStack() as stack:
            clusters = [
                await stack.enter_async_context(make(cluster_name, profile(name, role)))
                for name, role in (("laptop", Role.USER), ("desktop", Role.USER), ("box", Role.HELPER))
            ]
            await complete(clusters)
            assert holder(clusters).me.role is Role.USER
            await holder(clusters).wait_for(lambda: holder(clusters).status().discovery.startswith("on"))
            status = holder(clusters).status()
            assert [d.is_me for d in status.devices] == [True, False, False]
            assert [d.coordinates for d in status.devices] == [True, False, False]
            assert all(d.granted for d in status.devices)
            assert status.sighted == ()
            assert status.failed == ()

    run(test())


def test_helpers_alone_have_no_coordinator(cluster_name: str) -> None:
    async def test() -> None:
        async with (
            make(cluster_name, profile("one", Role.HELPER)) as one,
            make(cluster_name, profile("two", Role.HELPER)) as two,
        ):
            await one.wait_for(lambda: len(one.peers) == 1)
            await two.wait_for(lambda: len(two.peers) == 1)
            assert one.coordinator is None
            with pytest.raises(NotCoordinatorError, match="one is a helper"):
                await one.acquire()

    run(test())


def test_the_lease_follows_the_prompt_and_busy_is_not_interrupted(cluster_name: str) -> None:
    async def test() -> None:
        async with (
            make(cluster_name, profile("laptop")) as a,
            make(cluster_name, profile("desktop")) as b,
            make(cluster_name, profile("box", Role.HELPER)) as c,
        ):
            clusters = [a, b, c]
            await complete(clusters)
            old = holder(clusters)
            new = b if old is a else a
            lost = Recorder()
            old.set_handler(lost)
            lease = await new.acquire(wait_s=PATIENCE_S)
            assert lease.devices == {x.me.id for x in clusters}
            assert len(lost.lease_losses) == 1
            assert c.coordinator == new.me.id
            assert new.status().busy
            with pytest.raises(NotCoordinatorError, match=f"Device {new.me.name} coordinates and is busy"):
                await old.acquire(wait_s=0.05)
            assert (await new.acquire()).term == lease.term  # a second request of the same device
            term = new.bump_term()
            assert term > lease.term
            await new.settled()
            waiting = asyncio.create_task(old.acquire(wait_s=PATIENCE_S))
            new.set_busy(False)
            assert (await waiting).term > term
            assert new.lease is None
            with pytest.raises(LocalProtocolError):
                new.bump_term()

    run(test())


def test_a_lost_coordinator_is_replaced_and_comes_back(cluster_name: str) -> None:
    async def test() -> None:
        async with (
            make(cluster_name, profile("laptop")) as a,
            make(cluster_name, profile("desktop")) as b,
            make(cluster_name, profile("box", Role.HELPER)) as c,
        ):
            clusters = [a, b, c]
            await complete(clusters)
            old = holder(clusters)
            others = [x for x in clusters if x is not old]
            recorders = [Recorder() for _ in others]
            for cluster, recorder in zip(others, recorders, strict=True):
                cluster.set_handler(recorder)
            for connection in list(old.peers.values()):
                connection.abort(DeviceLostError("pulled out"))
            for cluster, recorder in zip(others, recorders, strict=True):
                await cluster.wait_for(lambda r=recorder: bool(r.lost))
                assert recorder.lost[0][0] == old.me.id
            await complete(clusters)  # dialled again, and the two holders have settled it

    run(test())


def test_who_leaves_in_order_is_gone_at_once(cluster_name: str) -> None:
    async def test() -> None:
        async with make(cluster_name, profile("laptop")) as a:
            async with make(cluster_name, profile("desktop")) as b:
                await complete([a, b])
                await b.acquire(wait_s=PATIENCE_S)
                recorder = Recorder()
                a.set_handler(recorder)
            await a.wait_for(lambda: a.coordinator == a.me.id)
            assert a.lease is not None
            assert a.lease.devices == {a.me.id}
            ((lost, error),) = recorder.lost
            assert lost == b.me.id
            assert "left: it shuts down" in str(error)
            await a.wait_for(lambda: not a.status().sighted)

    run(test())


@pytest.mark.parametrize("who_knows", ["lower", "higher"])
def test_static_peers_without_mdns(cluster_name: str, who_knows: str) -> None:
    async def test() -> None:
        low = profile("low", device_id="0" * 64)
        high = profile("high", device_id="f" * 64)
        first, second = (high, low) if who_knows == "lower" else (low, high)
        async with make(cluster_name, first, mdns=False) as one:
            address = f"localhost:{one.port}"
            async with make(cluster_name, second, mdns=False, static_peers=(address,)) as two:
                await complete([one, two])
                assert two.status().discovery == "disabled"
                assert one.status().sighted == ()

    run(test())


async def unused_ports(n: int) -> list[int]:
    servers = [await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) for _ in range(n)]
    found = [server.sockets[0].getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return found


def test_both_dial_at_once_and_keep_one_connection(cluster_name: str) -> None:
    async def test() -> None:
        ports = await unused_ports(2)
        both = tuple(f"127.0.0.1:{port}" for port in ports)  # each finds itself in the list, too
        low = make(cluster_name, profile("low", device_id="0" * 64), mdns=False, port=ports[0], static_peers=both)
        high = make(cluster_name, profile("high", device_id="f" * 64), mdns=False, port=ports[1], static_peers=both)
        async with low, high:
            await complete([low, high])
            assert low.peers[high.me.id].outgoing != high.peers[low.me.id].outgoing
            assert low.status().failed == ()

    run(test())


def test_another_cluster_is_counted_and_refused_with_the_reason(cluster_name: str) -> None:
    async def test() -> None:
        async with make(cluster_name, profile("mine")) as mine:
            static = (f"127.0.0.1:{mine.port}",)
            async with make(cluster_name + "-not", profile("theirs"), static_peers=static) as theirs:
                await mine.wait_for(lambda: mine.status().n_other_clusters >= 1)
                await theirs.wait_for(lambda: bool(theirs.status().failed))
                (failed,) = theirs.status().failed
                assert failed.code == "other_cluster"
                assert cluster_name in failed.reason
                assert not mine.peers

    run(test())


def test_another_protocol_version_is_reported_by_name_and_not_dialled(cluster_name: str) -> None:
    async def test() -> None:
        old = profile("grandpa")
        async with (
            announced("grandpa", dict(encode_advert(old, cluster_name)) | {"v": "0"}),
            make(cluster_name, profile("laptop")) as cluster,
        ):
            await cluster.wait_for(lambda: bool(cluster.status().failed))
            status = cluster.status()
            (failed,) = status.failed
            assert (failed.name, failed.code) == ("grandpa", "version_mismatch")
            assert "Upgrade tpid on that device" in failed.reason
            assert [s.protocol_version for s in status.sighted] == [0]

    run(test())


def test_an_announcement_that_no_tpid_made_is_counted(cluster_name: str) -> None:
    async def test() -> None:
        async with (
            announced(cluster_name, {"id": b"\xff\xfe", "v": None}),
            make(cluster_name, profile("laptop")) as cluster,
        ):
            await cluster.wait_for(lambda: cluster.status().n_unreadable >= 1)
            assert cluster.status().sighted == ()

    run(test())


@pytest.mark.parametrize("helper_id", ["0" * 64, "f" * 64], ids=["lower", "higher"])
def test_a_device_whose_id_is_announced_by_another_is_found(cluster_name: str, helper_id: str) -> None:
    helper = profile("helper", Role.HELPER, helper_id)

    async def test() -> None:
        async with (
            announced(_label(helper.id), dict(encode_advert(helper, cluster_name)), host="somebody-else"),
            make(cluster_name, profile("laptop", device_id="8" * 64)) as user,
        ):
            await user.wait_for(lambda: len(user.status().sighted) == 1)
            for _ in range(2):  # at the start, and when it comes back
                async with make(cluster_name, helper) as found:
                    await complete([user, found])
                    assert user.status().sighted == ()
                    assert user.status().failed == ()
                    membership = user._membership  # a dial of the false address may end only now
                    target, error = membership._targets[helper.id], DeviceLostError("Nothing listens there.")
                    membership._dial_failed(helper.id, target, [Address("127.0.0.1", 9)], error)
                    assert user.status().failed == ()
                await user.wait_for(lambda: not user.peers)

    run(test())


def test_where_mdns_shows_one_of_two_only_they_connect_all_the_same(
    cluster_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tpid.cluster.membership.HIGHER_WAITS_S", 0.05)
    low, high = profile("low", device_id="0" * 64), profile("high", device_id="f" * 64)

    async def test() -> None:
        async with make(cluster_name, low, mdns=False) as unseeing, make(cluster_name, high, mdns=False) as seeing:
            advert = decode_advert({k.encode(): v.encode() for k, v in encode_advert(low, cluster_name).items()})
            seeing._membership.sighted(Sighting("low", (Address("127.0.0.1", unseeing.port),), advert))
            await complete([unseeing, seeing])
            assert seeing.peers[low.id].outgoing

    run(test())


def test_trouble_with_mdns_does_not_stop_the_rest(cluster_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with (
            make(cluster_name, profile("one")) as one,
            make(cluster_name, profile("two"), mdns=False, static_peers=(f"127.0.0.1:{one.port}",)) as two,
        ):
            # An address that no interface here has: nothing is ever sent.
            monkeypatch.setattr(one._network, "site", lambda hosts, port: Site(("192.0.2.1",), ("192.0.2.1",), port))
            await complete([one, two])
            await one.wait_for(lambda: one.status().discovery.startswith("off: "))
            assert "no such device" in one.status().discovery

    run(test())


def test_frames_and_profiles_reach_the_handler(cluster_name: str) -> None:
    async def test() -> None:
        recorder = Recorder()
        one = make(cluster_name, profile("one"), mdns=False)
        one.set_handler(recorder)
        async with one, make(cluster_name, profile("two"), mdns=False, static_peers=(f"127.0.0.1:{one.port}",)) as two:
            await complete([one, two])
            assert recorder.joined == [two.me.id]
            assert recorder.n_lease_changes > 0
            two.peers[one.me.id].send(Unload(term=3))
            await recorder.arrived.wait()
            assert recorder.frames == [(two.me.id, Kind.UNLOAD, Unload(term=3))]
            two.update_profile(replace(two.me, packs=("a-model",)))
            await one.wait_for(lambda: one.peers[two.me.id].peer.packs == ("a-model",))
            with pytest.raises(LocalProtocolError):
                two.update_profile(replace(two.me, role=Role.HELPER))

    run(test())


def test_who_is_blamed_leaves_the_lease_and_the_handler_is_told(cluster_name: str) -> None:
    async def test() -> None:
        one = make(cluster_name, profile("one"), mdns=False)
        async with one, make(cluster_name, profile("two"), mdns=False, static_peers=(f"127.0.0.1:{one.port}",)) as two:
            await one.acquire(wait_s=PATIENCE_S)
            await one.wait_for(lambda: one.lease is not None and two.me.id in one.lease.devices)
            recorder = Recorder()
            one.set_handler(recorder)
            one.blame(two.me.id, "its disk is broken")
            assert one.lease is not None
            assert one.lease.devices == {one.me.id}
            assert recorder.n_lease_changes == 0  # not before the caller has told what has failed
            await one.wait_for(lambda: recorder.n_lease_changes > 0)

    run(test())


def test_a_port_in_use_is_told(cluster_name: str) -> None:
    async def test() -> None:
        async with make(cluster_name, profile("one"), mdns=False) as one:
            with pytest.raises(ListenError, match=str(one.port)):
                async with make(cluster_name, profile("two"), mdns=False, port=one.port):
                    pass

    run(test())


def test_a_second_hello_with_a_known_id_changes_nothing(cluster_name: str) -> None:
    """Whoever says it proves nothing by it; the device itself is answering all the while."""

    async def test() -> None:
        async with make(cluster_name, profile("one"), mdns=False) as one:
            other = profile("two")
            settings: dict[str, Any] = {"mdns": False, "static_peers": (f"127.0.0.1:{one.port}",)}
            async with make(cluster_name, other, **settings) as two:
                await complete([one, two])
                theirs = one.peers[other.id]
                with pytest.raises(RefusedError, match="connected already"):
                    await dial(
                        [("127.0.0.1", one.port)], lambda: Hello(cluster=cluster_name, profile=other), CommSettings()
                    )
                assert one.peers[other.id] is theirs
                assert not theirs.closed

    run(test())


def test_a_copied_device_is_told_on_both_sides(cluster_name: str) -> None:
    async def test() -> None:
        device_id = secrets.token_hex(32)
        async with make(cluster_name, profile("pi-1", device_id=device_id), mdns=False) as one:
            settings: dict[str, Any] = {"mdns": False, "static_peers": (f"127.0.0.1:{one.port}",)}
            async with make(cluster_name, profile("pi-2", device_id=device_id), **settings) as two:
                for cluster in (one, two):
                    await cluster.wait_for(lambda c=cluster: bool(c.status().failed))
                    (failed,) = cluster.status().failed
                    assert failed.code == "cloned"
                    assert "pi-1" in failed.reason
                    assert "pi-2" in failed.reason
                    assert "identity.pem" in failed.reason

    run(test())

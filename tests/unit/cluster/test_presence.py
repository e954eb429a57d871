"""The listener follows the network. Linux has all of 127.0.0.0/8 on loopback, so nothing leaves this machine."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import pytest

from tpid.cluster.discovery import Site
from tpid.cluster.presence import Presence
from tpid.comm.listener import Listener
from tpid.comm.messages import Hello
from tpid.comm.settings import CommSettings
from tpid.device import DeviceId, DeviceProfile, Role

PROFILE = DeviceProfile(DeviceId("a" * 64), "desk", Role.USER, "0", 2**33, 2**32, 2**36, 1, 1e9, "native")


class Scripted:
    """A network, and the discovery that is told of it."""

    def __init__(self) -> None:
        self.outside: tuple[str, ...] = ()
        self.sites: list[Site] = []

    def hosts(self, *, is_open: bool) -> tuple[str, ...]:
        return ("127.0.0.1", *self.outside) if is_open else ("127.0.0.1",)

    def site(self, hosts: Sequence[str], port: int) -> Site:
        return Site(tuple(hosts), tuple(hosts), port)

    def move(self, site: Site) -> None:
        self.sites.append(site)


async def listening() -> Listener:
    return await Listener.listen(
        "127.0.0.1",
        0,
        hello=lambda: Hello(cluster="home", profile=PROFILE),
        accept=lambda _: None,
        on_connection=lambda _: None,
        settings=CommSettings(),
    )


def test_a_device_is_where_its_network_is_and_only_while_there_is_a_reason() -> None:
    async def test() -> None:
        script: Any = Scripted()
        moves: list[frozenset[str]] = []
        listener = await listening()
        presence = Presence(
            listener, script, script, has_reason=lambda: False, on_moved=lambda: moves.append(listener.hosts)
        )
        script.outside = ("127.0.0.2",)
        async with presence.opened():
            assert listener.hosts == {"127.0.0.1", "127.0.0.2"}
            for host in listener.hosts:  # at one port
                _, writer = await asyncio.open_connection(host, listener.port)
                writer.close()
            script.outside = ("127.0.0.3",)
            await presence._follow()
            assert listener.hosts == {"127.0.0.1", "127.0.0.3"}
        await presence._follow()
        assert listener.hosts == {"127.0.0.1"}
        assert [len(hosts) for hosts in moves] == [2, 2, 1]
        assert script.sites[-1].addresses == ("127.0.0.1",)
        with contextlib.suppress(ConnectionError):
            _, writer = await asyncio.open_connection("127.0.0.3", listener.port)
            raise AssertionError("it listens where it has no reason to")
        await listener.close()

    asyncio.run(test())


def test_an_address_that_is_not_usable_yet_is_tried_again_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """IPv6 has an address some time before it may be used."""

    async def test() -> None:
        script: Any = Scripted()
        listener = await listening()
        presence = Presence(listener, script, script, has_reason=lambda: True, on_moved=lambda: None)
        async with await asyncio.start_server(lambda reader, writer: None, "127.0.0.2", listener.port) as other:
            script.outside = ("127.0.0.2",)
            await presence._follow()
            await presence._follow()
            assert listener.hosts == {"127.0.0.1"}
            other.close()
        await presence._follow()
        assert listener.hosts == {"127.0.0.1", "127.0.0.2"}
        await listener.close()

    asyncio.run(test())
    assert sum("not_listening" in record.message for record in caplog.records) == 1

"""Which names are kept when more are announced than a home has. Nothing is sent: mDNS itself is not started."""

import asyncio
import re
from collections.abc import Awaitable
from dataclasses import dataclass, field

import pytest
from zeroconf import NonUniqueNameException
from zeroconf.asyncio import AsyncServiceInfo

from tpid.cluster.address import Address
from tpid.cluster.advert import Advert, decode_advert, encode_advert
from tpid.cluster.discovery import MAX_NAMES, NAMES_AT_ONCE, SERVICE_TYPE, Discovery, Sighting
from tpid.device import DeviceId, DeviceProfile, Role


@dataclass
class Watched:
    met: set[DeviceId] = field(default_factory=set)
    here: list[Sighting] = field(default_factory=list)
    gone: list[Sighting] = field(default_factory=list)

    def sighted(self, sighting: Sighting) -> None:
        self.here.append(sighting)

    def cloned(self, sighting: Sighting) -> None: ...

    def vanished(self, sighting: Sighting) -> None:
        self.gone.append(sighting)

    def has_met(self, device_id: DeviceId) -> bool:
        return device_id in self.met


def profile(number: int) -> DeviceProfile:
    return DeviceProfile(
        id=DeviceId(f"{number:032x}"),
        name=f"device-{number}",
        role=Role.USER,
        version="0",
        ram_bytes=1,
        budget_bytes=1,
        disk_free_bytes=1,
        threads=1,
        read_bytes_s=1.0,
        backend="native",
    )


def advert(number: int) -> Advert:
    return decode_advert({k.encode(): v.encode() for k, v in encode_advert(profile(number), "home").items()})


def name_of(number: int) -> str:
    return f"{number:032x}.{SERVICE_TYPE}"


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.fixture
def discovery(watched: Watched) -> Discovery:
    return Discovery("home", profile(0), watched, lambda: None)


def fill(discovery: Discovery, numbers: range) -> None:
    for number in numbers:
        discovery._sightings[name_of(number)] = Sighting(Address("127.0.0.1", 1000 + number), advert(number))


def test_a_flood_of_names_forgets_no_device_that_was_connected(discovery: Discovery, watched: Watched) -> None:
    watched.met = {DeviceId(f"{number:032x}") for number in (1, 2, 3)}
    fill(discovery, range(1, MAX_NAMES + 1))
    for _ in range(MAX_NAMES - 3):
        assert discovery._make_room()
    assert set(discovery._sightings) == {name_of(1), name_of(2), name_of(3)}
    assert watched.gone[0].device_id == f"{4:032x}"  # the oldest stranger first
    assert not discovery._make_room()


def test_of_several_names_with_one_id_the_oldest_goes(discovery: Discovery, watched: Watched) -> None:
    watched.met = {DeviceId(f"{number:032x}") for number in (1, 2)}
    fill(discovery, range(1, 3))
    for copy in range(3):
        discovery._sightings[f"copy-{copy}"] = Sighting(Address("127.0.0.1", 9 + copy), advert(2))
    for _ in range(3):
        assert discovery._make_room()
    assert list(discovery._sightings) == [name_of(1), "copy-2"]
    assert not discovery._make_room()


def record(number: int, port: int, name: str | None = None) -> AsyncServiceInfo:
    return AsyncServiceInfo(
        SERVICE_TYPE,
        name or name_of(number),
        port=port,
        properties=dict(encode_advert(profile(number), "home")),
        parsed_addresses=["127.0.0.1"],
    )


def addresses(sightings: list[Sighting]) -> list[str]:
    return [str(sighting.address) for sighting in sightings]


def test_an_id_may_have_several_names_and_addresses(discovery: Discovery, watched: Watched) -> None:
    other_name = f"{1:032x}-1a2b.{SERVICE_TYPE}"
    discovery._resolved(name_of(1), record(1, 9))
    discovery._resolved(other_name, record(1, 1000, other_name))
    assert addresses(watched.here) == ["127.0.0.1:9", "127.0.0.1:1000"]
    discovery._resolved(name_of(1), record(1, 1000))  # now both lead to one place
    assert addresses(watched.gone) == ["127.0.0.1:9"]
    discovery._forget(name_of(1))
    assert len(watched.gone) == 1
    discovery._forget(other_name)
    assert addresses(watched.gone) == ["127.0.0.1:9", "127.0.0.1:1000"]


class TakenNames:
    """Stands for zeroconf where the first so many names are taken."""

    def __init__(self, n_taken: int) -> None:
        self.names: list[str] = []
        self._n_taken = n_taken

    async def async_register_service(self, info: AsyncServiceInfo) -> Awaitable[None]:
        self.names.append(info.name)
        if len(self.names) <= self._n_taken:
            raise NonUniqueNameException
        return asyncio.sleep(0)


def test_a_taken_name_is_replaced_by_one_that_nobody_can_foresee(discovery: Discovery) -> None:
    names = TakenNames(2)
    asyncio.run(discovery._register(names))  # type: ignore[arg-type]
    assert names.names[0] == name_of(0)
    assert len(set(names.names)) == 3
    assert all(re.fullmatch(rf"{0:032x}-[0-9a-f]{{8}}\.{re.escape(SERVICE_TYPE)}", name) for name in names.names[1:])
    service = discovery._service()
    assert (service.name, service.server) == (names.names[-1], names.names[-1].replace(SERVICE_TYPE, "local."))
    assert service.properties[b"id"] == f"{0:032x}".encode()


def test_where_every_name_is_taken_it_pauses_and_says_why(discovery: Discovery) -> None:
    async def test() -> None:
        names = TakenNames(10**9)
        task = asyncio.create_task(discovery._register(names))  # type: ignore[arg-type]
        for _ in range(10):  # turns of the loop
            await asyncio.sleep(0)
        assert len(names.names) == NAMES_AT_ONCE
        assert discovery.state.startswith("not announced")
        assert "device-id" in discovery.state
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(test())


def test_names_that_lead_nowhere_go_first(discovery: Discovery, watched: Watched) -> None:
    async def test() -> None:
        fill(discovery, range(1, 3))
        waiting = asyncio.create_task(asyncio.Event().wait())
        discovery._resolving["slow"] = waiting  # type: ignore[assignment]
        discovery._others.add("other")
        discovery._unreadable.add("unreadable")
        for left in ({"other", "slow"}, {"slow"}, set[str]()):
            assert discovery._make_room()
            assert discovery._others | discovery._unreadable | discovery._resolving.keys() == left
        assert watched.gone == []
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(test())


def test_a_lookup_that_ends_late_leaves_the_one_that_follows(discovery: Discovery) -> None:
    async def test() -> None:
        first, second = (asyncio.create_task(asyncio.sleep(0)) for _ in range(2))
        discovery._resolving["name"] = second
        discovery._resolve_done("name", first)
        assert discovery._resolving == {"name": second}
        discovery._resolve_done("name", second)
        assert discovery._resolving == {}
        await asyncio.gather(first, second)

    asyncio.run(test())

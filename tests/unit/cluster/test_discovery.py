"""Which names are kept when more are announced than a home has. Nothing is sent: mDNS itself is not started."""

import asyncio
from dataclasses import dataclass, field

import pytest
from zeroconf.asyncio import AsyncServiceInfo

from tpid.cluster.address import Address
from tpid.cluster.advert import Advert, decode_advert, encode_advert
from tpid.cluster.discovery import MAX_NAMES, SERVICE_TYPE, Discovery, Sighting, Site, _label, _usable
from tpid.device import DeviceId, DeviceProfile, Role


@dataclass
class Watched:
    met: set[DeviceId] = field(default_factory=set)
    gone: list[DeviceId] = field(default_factory=list)
    clones: list[str] = field(default_factory=list)  # the names of their services

    def sighted(self, sighting: Sighting) -> None: ...

    def cloned(self, sighting: Sighting) -> None:
        self.clones.append(sighting.service)

    def clone_vanished(self, service: str) -> None:
        if service in self.clones:
            self.clones.remove(service)

    def vanished(self, sighting: Sighting) -> None:
        self.gone.append(sighting.device_id)

    def counts(self, device_id: DeviceId) -> bool:
        return device_id in self.met


def profile(number: int) -> DeviceProfile:
    return DeviceProfile(
        id=DeviceId(f"{number:064x}"),
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
    return f"{number:064x}.{SERVICE_TYPE}"


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.fixture
def discovery(watched: Watched) -> Discovery:
    return Discovery("home", profile(0), watched, lambda: None)


def fill(discovery: Discovery, numbers: range) -> None:
    for number in numbers:
        address = Address("127.0.0.1", 1000 + number)
        discovery._sightings[name_of(number)] = Sighting(name_of(number), (address,), advert(number))


def test_a_flood_of_names_forgets_no_device_that_was_connected(discovery: Discovery, watched: Watched) -> None:
    watched.met = {DeviceId(f"{number:064x}") for number in (1, 2, 3)}
    fill(discovery, range(1, MAX_NAMES + 1))
    for _ in range(MAX_NAMES - 3):
        assert discovery._make_room()
    assert set(discovery._sightings) == {name_of(1), name_of(2), name_of(3)}
    assert watched.gone[0] == f"{4:064x}"  # the oldest stranger first
    assert not discovery._make_room()


def test_names_that_lead_nowhere_go_first(discovery: Discovery, watched: Watched) -> None:
    async def test() -> None:
        fill(discovery, range(1, 3))
        waiting = asyncio.create_task(asyncio.Event().wait())
        discovery._resolving["slow"] = waiting  # type: ignore[assignment]
        discovery._unreadable.add("unreadable")
        for left in ({"slow"}, set[str]()):
            assert discovery._make_room()
            assert discovery._unreadable | discovery._resolving.keys() == left
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


def test_who_announces_this_devices_id_is_told_of_until_it_is_gone(discovery: Discovery, watched: Watched) -> None:
    name = f"this.{SERVICE_TYPE}"

    def announced(port: int) -> AsyncServiceInfo:
        properties = dict(encode_advert(profile(0), "home"))
        return AsyncServiceInfo(SERVICE_TYPE, name, port=port, properties=properties, parsed_addresses=["127.0.0.1"])

    discovery.move(Site(port=7474))
    discovery._resolved(name, announced(7475))
    assert watched.clones == [name]
    discovery._resolved(name, announced(7474))  # it was this device's own, from before it moved
    assert watched.clones == []
    discovery._resolved(name, announced(7475))
    discovery._forget(name)
    assert watched.clones == []


@pytest.mark.parametrize(
    ("announced", "used"),
    [
        (["127.0.0.1"], ["127.0.0.1"]),
        (["127.0.0.1", "192.168.1.7"], ["192.168.1.7"]),  # its loopback is ours, not its
        (["fe80::1%eth0", "192.168.1.7", "10.0.0.7"], ["192.168.1.7", "10.0.0.7", "fe80::1%eth0"]),
        ([], []),
    ],
)
def test_loopback_leads_to_another_device_only_where_it_has_nothing_else(announced: list[str], used: list[str]) -> None:
    assert _usable(announced) == used


def test_an_id_becomes_one_label_of_dns() -> None:
    label = _label(DeviceId("f" * 64))
    assert len(label) <= 63
    assert label.isalnum()
    assert label != _label(DeviceId("f" * 63 + "e"))

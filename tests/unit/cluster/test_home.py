"""A device's home on its disk, and what it trusts."""

import asyncio
from pathlib import Path

import pytest

from tpid.cluster.address import Address
from tpid.cluster.home import Home
from tpid.cluster.identity.identity import load_or_create_identity
from tpid.cluster.roster.roster import admit, revoke
from tpid.cluster.whereabouts import Whereabouts, load_whereabouts
from tpid.comm.opening import Purpose
from tpid.device import DeviceId, Role, device_name
from tpid.errors import RosterError


def pair(user: Home, state_dir: Path, name: str, role: Role) -> Home:
    """A second device of the user's home, as a pairing leaves it."""
    identity = load_or_create_identity(state_dir)

    async def invite() -> None:
        await user.change(
            lambda roster: admit(roster, user.identity, certificate=identity.certificate, name=name, role=role)
        )
        await Home.load(state_dir, name).move(user.roster, Whereabouts({user.id: (Address("10.0.0.1", 7474),)}))

    asyncio.run(invite())
    return Home.load(state_dir, name)


def test_a_device_founds_a_home_and_has_it_after_a_restart(tmp_path: Path) -> None:
    home = Home.load(tmp_path, "desk")
    assert home.me is not None
    assert (home.me.name, home.me.role, len(home.members)) == ("desk", Role.USER, 1)
    again = Home.load(tmp_path, "another name")
    assert (again.id, again.fingerprint, again.me) == (home.id, home.fingerprint, home.me)


@pytest.mark.parametrize("name", ["👩‍💻 laptop", "Käthes Rechner", "  desk\t", "\u200d", ""])
def test_a_home_can_be_founded_under_any_name(tmp_path: Path, name: str) -> None:
    home = Home.load(tmp_path, name)
    assert home.me is not None
    assert home.me.name == (device_name(name) or "device")


def test_who_is_paired_is_trusted_on_both_sides_and_nobody_else(tmp_path: Path) -> None:
    user = Home.load(tmp_path / "desk", "desk")
    helper = pair(user, tmp_path / "pi", "pi", Role.HELPER)
    stranger = Home.load(tmp_path / "stranger", "desk")
    assert user.fingerprint == helper.fingerprint != stranger.fingerprint
    assert helper.whereabouts.of(user.id) == (Address("10.0.0.1", 7474),)
    proven = user.proven(helper.identity.certificate)
    assert proven is not None
    assert (proven.id, proven.role) == (helper.id, Role.HELPER)
    for certificate in (None, b"", stranger.identity.certificate):
        assert user.proven(certificate) is None
    door = helper.door_to(user.id)
    assert door.is_admitted(user.identity.certificate)
    assert not door.is_admitted(helper.identity.certificate)  # another one than was looked for
    assert not helper.door_to(None).is_admitted(stranger.identity.certificate)
    assert helper.door_to(None).is_admitted(user.identity.certificate)


def test_the_door_for_pairing_is_there_while_an_invitation_is_open(tmp_path: Path) -> None:
    home = Home.load(tmp_path, "desk")
    assert set(home.doors()) == {Purpose.MEMBER, Purpose.UNITS}
    home.invites = True
    assert set(home.doors()) == {Purpose.MEMBER, Purpose.UNITS, Purpose.PAIRING}


def test_who_was_put_out_begins_anew_with_another_identity(tmp_path: Path) -> None:
    user = Home.load(tmp_path / "desk", "desk")
    helper = pair(user, tmp_path / "pi", "pi", Role.HELPER)
    changes: list[int] = []
    helper.on_change = lambda: changes.append(len(helper.members))

    async def put_out() -> None:
        await user.change(lambda roster: revoke(roster, user.identity, helper.id))
        new = helper.hear(user.roster.statements)
        assert len(new) == 1
        assert helper.hear(user.roster.statements) == []
        await helper.save()

    asyncio.run(put_out())
    assert changes == [1]
    assert helper.me is None
    assert user.proven(helper.identity.certificate) is None
    anew = Home.load(tmp_path / "pi", "pi")
    assert anew.id != helper.id
    assert anew.fingerprint not in (user.fingerprint, helper.fingerprint)
    assert anew.me is not None
    assert anew.me.role is Role.USER


def test_a_helper_admits_nobody(tmp_path: Path) -> None:
    user = Home.load(tmp_path / "desk", "desk")
    helper = pair(user, tmp_path / "pi", "pi", Role.HELPER)
    with pytest.raises(RosterError, match="role user"):
        asyncio.run(helper.change(lambda roster: revoke(roster, helper.identity, user.id)))
    assert user.id in helper.members


def test_devices_are_found_by_name_and_by_fingerprint(tmp_path: Path) -> None:
    user = Home.load(tmp_path / "desk", "desk")
    helper = pair(user, tmp_path / "pi", "Pi", Role.HELPER)
    assert user.member_named("pi").id == helper.id
    assert user.member_named(helper.id[:12]).id == helper.id
    with pytest.raises(RosterError, match="'attic'") as caught:
        user.member_named("attic")
    assert caught.value.hint == "Its devices: Pi, desk."


def test_what_is_moved_into_is_not_written_over(tmp_path: Path) -> None:
    user = Home.load(tmp_path / "desk", "desk")
    newcomer = Home.load(tmp_path / "pi", "pi")

    async def move() -> None:
        await user.change(
            lambda roster: admit(
                roster, user.identity, certificate=newcomer.identity.certificate, name="pi", role=Role.HELPER
            )
        )
        await newcomer.move(user.roster, Whereabouts())
        newcomer.whereabouts.saw(user.id)
        await newcomer.save()

    asyncio.run(move())
    assert Home.load(tmp_path / "pi", "pi").fingerprint == user.fingerprint


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"a": 3}', b'{"a": {"addresses": ["x"], "seen": 1}}', b"[" * 10_000]
)
def test_addresses_that_cannot_be_read_are_found_out_again(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "addresses.json"
    path.write_bytes(content)
    path.chmod(0o600)
    assert dict(load_whereabouts(tmp_path).all()) == {}


def test_the_newest_address_comes_first_and_few_are_kept() -> None:
    whereabouts = Whereabouts()
    device = DeviceId("a" * 64)
    addresses = [Address("10.0.0.1", port) for port in range(1, 7)]
    for address in addresses:
        whereabouts.reached(device, address)
    assert whereabouts.of(device) == tuple(reversed(addresses[-4:]))
    whereabouts.told(device, (Address("10.0.0.9", 1),))
    assert Address("10.0.0.9", 1) not in whereabouts.of(device)  # there are enough that this device has tried

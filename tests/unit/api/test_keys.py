import json
import stat
from pathlib import Path

import pytest
import uvloop

from tests.unit.api.scripted import Serve
from tpid.api.keys import MAX_KEYS, ApiKeys
from tpid.errors import ConfigError, RequestError


def test_a_key_opens_until_it_is_revoked_and_over_a_restart(keys: ApiKeys, tmp_path: Path) -> None:
    path = tmp_path / "keys" / "api_keys.json"
    phone, tablet = keys.create("phone"), keys.create("tablet")
    assert phone.startswith("tpid-")
    assert len(phone) > 40
    again = ApiKeys(path)
    assert [key.name for key in again.keys] == ["phone", "tablet"]
    assert again.holds(phone)
    assert again.holds(tablet)
    again.revoke("phone")
    assert again.holds(tablet)
    assert not any(again.holds(key) for key in (phone, "", tablet[:-1], tablet + "x", "\ud800"))
    assert not ApiKeys(path).holds(phone)


def test_the_file_is_the_owners_and_does_not_have_the_key(keys: ApiKeys, tmp_path: Path) -> None:
    path = tmp_path / "keys" / "api_keys.json"
    key = keys.create("phone")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key not in path.read_text()
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="open to other users"):
        ApiKeys(path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"keys": 3}', json.dumps({"keys": [{"name": 3}]})])
def test_a_damaged_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "api_keys.json"
    path.touch(0o600)
    path.write_text(content)
    with pytest.raises(ConfigError, match="damaged") as caught:
        ApiKeys(path)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["", "a b", "-x", "x" * 65, "a\n", "é"])
def test_names_are_plain(keys: ApiKeys, name: str) -> None:
    with pytest.raises(RequestError, match="cannot be a key's name"):
        keys.create(name)


def test_a_name_is_given_once_and_keys_are_few(keys: ApiKeys) -> None:
    for number in range(MAX_KEYS):
        keys.create(f"k{number}")
    with pytest.raises(RequestError, match="a key k1 already"):
        keys.create("k1")
    with pytest.raises(RequestError, match=f"{MAX_KEYS} keys already"):
        keys.create("another")
    with pytest.raises(RequestError, match="no key 'none'"):
        keys.revoke("none")


def test_what_cannot_be_kept_is_not_a_key(keys: ApiKeys, tmp_path: Path) -> None:
    (tmp_path / "keys").touch()  # in the place of its directory
    with pytest.raises(ConfigError):
        keys.create("phone")
    assert keys.keys == ()


def test_they_are_made_and_ended_on_the_socket(serve: Serve, keys: ApiKeys) -> None:
    async def main() -> None:
        async with serve() as api:
            status, created = await api.request("/tpid/keys/create", {"name": "phone"})
            assert (status, created["name"], keys.holds(created["key"])) == (200, "phone", True)
            status, listed = await api.request("/tpid/keys")
            assert (status, [key["name"] for key in listed["keys"]]) == (200, ["phone"])
            assert created["key"] not in str(listed)
            assert await api.request("/tpid/keys/revoke", {"name": "phone"}) == (200, {"revoked": "phone"})
            assert (await api.request("/tpid/keys/revoke", {"name": "phone"}))[0] == 400

    uvloop.run(main())
    assert keys.keys == ()

from pathlib import Path

import pytest

from tests.unit.cluster.roster.people import line, person
from tpid.cluster.roster.roster import found
from tpid.cluster.roster.store import FILE_NAME, load_roster, save_roster
from tpid.errors import ConfigError


def test_a_roster_is_kept(tmp_path: Path) -> None:
    assert load_roster(tmp_path) is None
    for roster in (found(person(0), "a"), line(5)):
        save_roster(tmp_path, roster)
        loaded = load_roster(tmp_path)
        assert loaded == roster
        assert loaded is not None
        assert loaded.members == roster.members
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_a_damaged_roster_is_told(tmp_path: Path) -> None:
    save_roster(tmp_path, line(4))
    path = tmp_path / FILE_NAME
    sound = path.read_bytes()
    for content in (b"", sound[:-1], sound + b"x", b"x" + sound, sound[:-1] + bytes([sound[-1] ^ 1])):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="Restore it from a backup"):
            load_roster(tmp_path)
    path.write_bytes(sound)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="open to other users"):
        load_roster(tmp_path)

import os
import stat
from pathlib import Path

import pytest

from tpid.cluster.identity.device_id import FILE_NAME, load_or_create_device_id, parse_device_id
from tpid.errors import ConfigError


def test_an_id_is_made_once_and_kept(tmp_path: Path) -> None:
    state = tmp_path / "a" / "state"
    first = load_or_create_device_id(state)
    assert parse_device_id(first) == first
    assert load_or_create_device_id(state) == first
    assert stat.S_IMODE((state / FILE_NAME).stat().st_mode) == 0o600
    assert os.listdir(state) == [FILE_NAME]
    assert load_or_create_device_id(tmp_path / "b") != first


def test_the_first_of_two_processes_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link
    others = "f" * 32

    def link_second(source: Path, target: Path) -> None:
        target.write_text(others + "\n")
        link(source, target)

    monkeypatch.setattr(os, "link", link_second)
    assert load_or_create_device_id(tmp_path) == others
    assert os.listdir(tmp_path) == [FILE_NAME]


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"0" * 31, b"0" * 33, b"G" * 32, b"A" * 32, b"\xff" * 32, b"0" * 2**20]
)
def test_a_damaged_file_is_told_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="Restore it from a backup"):
        load_or_create_device_id(tmp_path)
    assert path.read_bytes() == content


def test_a_directory_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="state directory"):
        load_or_create_device_id(tmp_path / "file")
    (tmp_path / "state" / FILE_NAME).mkdir(parents=True)
    with pytest.raises(ConfigError, match="cannot be kept"):
        load_or_create_device_id(tmp_path / "state")

import json
import os
from pathlib import Path

import pytest

from tpid.daemon import disk_speed
from tpid.daemon.disk_speed import CACHE_NAME, disk_bytes_s, measure_bytes_s

Measured = list[list[Path]]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    """What was read, call by call; each gives the number of the call as its rate."""
    calls: Measured = []

    def measure(files: list[Path]) -> float:
        assert all(file.stat().st_size for file in files)
        calls.append(list(files))
        return float(len(calls))

    monkeypatch.setattr(disk_speed, "measure_bytes_s", measure)
    return calls


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """Directories for models and state."""
    models, state = tmp_path / "models", tmp_path / "state"
    models.mkdir()
    state.mkdir()
    return models, state


def add_pack(models: Path, size_bytes: int) -> Path:
    path = models / "m" / "layers" / "000.safetensors"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return path


def test_reads_all_bytes_of_files_of_any_length(
    tmp_path: Path, read_bytes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_speed, "MOST_S", 1000.0)
    files = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    sizes = [5 << 20, 1, (2 << 20) + 4097]
    for file, size in zip(files, sizes, strict=True):
        file.write_bytes(os.urandom(size))
    descriptors = len(os.listdir("/proc/self/fd"))
    assert measure_bytes_s(files) > 0
    assert sum(read_bytes) == sum(sizes)
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_scratch_file_stands_for_packs_and_is_gone(places: tuple[Path, Path], measured: Measured) -> None:
    models, state = places
    assert disk_bytes_s(models, state) == 1
    assert [file.parent for file in measured[0]] == [models]
    assert list(models.iterdir()) == []


def test_it_is_measured_once_and_again_when_there_are_packs(places: tuple[Path, Path], measured: Measured) -> None:
    models, state = places
    assert [disk_bytes_s(models, state) for _ in range(3)] == [1, 1, 1]
    pack = add_pack(models, disk_speed.LEAST_BYTES)
    assert [disk_bytes_s(models, state) for _ in range(3)] == [2, 2, 2]
    assert measured[1] == [pack]
    pack.unlink()
    assert disk_bytes_s(models, state) == 2


def test_a_pack_too_small_to_tell_is_not_taken(places: tuple[Path, Path], measured: Measured) -> None:
    add_pack(places[0], disk_speed.LEAST_BYTES - 1)
    disk_bytes_s(*places)
    assert measured[0][0].name.startswith(".speed-")


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[]", b"{}", b'{"file_system": 1, "from_packs": 1, "bytes_s": "x"}', b"null"]
)
def test_a_damaged_cache_is_measured_anew(places: tuple[Path, Path], measured: Measured, content: bytes) -> None:
    (places[1] / CACHE_NAME).write_bytes(content)
    assert disk_bytes_s(*places) == 1
    assert json.loads((places[1] / CACHE_NAME).read_bytes())["bytes_s"] == 1


def test_another_file_system_is_measured_anew(places: tuple[Path, Path], measured: Measured) -> None:
    disk_bytes_s(*places)
    cache = places[1] / CACHE_NAME
    known = json.loads(cache.read_bytes())
    cache.write_text(json.dumps(known | {"file_system": "another"}))
    assert disk_bytes_s(*places) == 2


def test_what_cannot_be_measured_streams_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert disk_bytes_s(tmp_path / "missing", tmp_path) == 0
    assert "disk_not_measured" in caplog.text
    assert not (tmp_path / CACHE_NAME).exists()

"""What is kept of a half-done file, and when it counts."""

import json
from pathlib import Path

import pytest

from tpid.download import partial as partial_module
from tpid.download.partial import Identity, PartialFile

IDENTITY = Identity(2500, '"tag"', None)


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_module, "SEGMENT_BYTES", 1000)


@pytest.fixture
def half_done(tmp_path: Path) -> Path:
    """The first 700 bytes, and 100 of the last segment."""
    path = tmp_path / "m.gguf"
    with PartialFile(path, IDENTITY) as partial:
        partial.write(partial.segments[0], b"a" * 700)
        partial.write(partial.segments[2], b"c" * 100)
    return path


def test_it_goes_on_at_the_byte(half_done: Path) -> None:
    with PartialFile(half_done, IDENTITY) as partial:
        assert [segment.position for segment in partial.segments] == [700, 1000, 2100]
        assert partial.done_bytes == 800
        assert partial.read(600, 200) == b"a" * 100 + bytes(100)
        for segment in partial.segments:
            partial.write(segment, b"x" * (segment.stop - segment.position))
        assert partial.publish() == half_done
    assert half_done.stat().st_size == 2500
    assert list(half_done.parent.iterdir()) == [half_done]


@pytest.mark.parametrize(
    ("now", "done_bytes"),
    [
        (IDENTITY, 800),
        (Identity(2500, '"tag"', "a" * 64), 800),
        (Identity(2500, '"other"', None), 0),
        (Identity(2501, '"tag"', None), 0),
        (Identity(2500, None, None), 0),
    ],
)
def test_only_of_the_same_file(half_done: Path, now: Identity, done_bytes: int) -> None:
    with PartialFile(half_done, now) as partial:
        assert partial.done_bytes == done_bytes


def test_a_digest_says_more_than_a_tag(tmp_path: Path) -> None:
    with PartialFile(tmp_path / "m", Identity(2500, '"one"', "a" * 64)) as partial:
        partial.write(partial.segments[0], b"x")
    for now, done_bytes in ((Identity(2500, '"two"', "a" * 64), 1), (Identity(2500, '"one"', "b" * 64), 0)):
        with PartialFile(tmp_path / "m", now) as partial:
            assert partial.done_bytes == done_bytes


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"[" * 100_000,
        b"3",
        b"{}",
        *(
            json.dumps({"version": 1, "size_bytes": 2500, "etag": '"tag"', "sha256": None, "done": done}).encode()
            for done in (None, [1], [1001, 0, 0], [-1, 0, 0], [True, 0, 0], ["1", 0, 0], [0, 0, 501])
        ),
        json.dumps({"version": 2, "size_bytes": 2500, "etag": '"tag"', "sha256": None, "done": [1, 1, 1]}).encode(),
    ],
)
def test_a_state_that_is_none_means_to_begin(half_done: Path, state: bytes) -> None:
    half_done.with_name("m.gguf.partial.json").write_bytes(state)
    with PartialFile(half_done, IDENTITY) as partial:
        assert partial.done_bytes == 0


def test_a_file_that_was_cut_means_to_begin(half_done: Path) -> None:
    half_done.with_name("m.gguf.partial").write_bytes(b"a")
    with PartialFile(half_done, IDENTITY) as partial:
        assert partial.done_bytes == 0


def test_what_was_written_is_saved_while_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that is killed loses seconds, not hours."""
    monkeypatch.setattr(partial_module, "SAVE_INTERVAL_S", 0.0)
    with PartialFile(tmp_path / "m", IDENTITY) as partial:
        partial.write(partial.segments[1], b"b" * 10)
        assert json.loads((tmp_path / "m.partial.json").read_bytes())["done"] == [0, 10, 0]
        partial.discard()
    assert list(tmp_path.iterdir()) == []

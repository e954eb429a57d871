"""The speed of direct reads: all that was asked for is read, wherever files end."""

import os
from itertools import cycle
from pathlib import Path

import pytest

from tpid.memory.prefetch import READ_BYTES
from tpid.memory.read_speed import chunks_of, direct_read_bytes_s, whole_file
from tpid.pack.reader import ByteRange

LONG_S = 1000.0


def test_all_bytes_are_read_also_of_files_that_end_within_a_page(tmp_path: Path, read_bytes: list[int]) -> None:
    sizes = [READ_BYTES + 5, 1, (2 << 20) + 4097, 8192]
    files = [tmp_path / str(size) for size in sizes]
    for file, size in zip(files, sizes, strict=True):
        file.write_bytes(os.urandom(size))
    descriptors = len(os.listdir("/proc/self/fd"))
    assert direct_read_bytes_s(chunks_of(map(whole_file, files)), LONG_S) > 0
    assert sum(read_bytes) == sum(sizes)
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_only_the_ranges_are_read(tmp_path: Path, read_bytes: list[int]) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(20 * 4096))
    ranges = [ByteRange(path, 4096, 8192), ByteRange(path, 16 * 4096, 4096)]
    direct_read_bytes_s(chunks_of(ranges), LONG_S)
    assert sorted(read_bytes) == [4096, 8192]


def test_chunks_that_never_end_are_left_in_time(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(4096))
    endless = cycle([whole_file(path)])
    assert direct_read_bytes_s(endless, 0.01) > 0


def test_a_file_that_is_gone_is_an_error_and_leaves_nothing_open(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(4096))
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        direct_read_bytes_s(iter([whole_file(path), ByteRange(tmp_path / "gone", 0, 4096)]), LONG_S)
    assert len(os.listdir("/proc/self/fd")) == descriptors

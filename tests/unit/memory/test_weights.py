"""Weights from real files: resident or streamed, whatever happens to the files meanwhile."""

import asyncio
import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tpid.errors import LoadError, MemoryPlanError
from tpid.memory import direct_files
from tpid.memory.prefetch import READ_BYTES
from tpid.memory.residency import Item
from tpid.memory.weights import Stored, Weights
from tpid.pack.geometry import ALIGN_BYTES
from tpid.pack.reader import ByteRange
from tpid.pack.tiles import U8

SIZES = [3 * ALIGN_BYTES, 7 * ALIGN_BYTES, 0, ALIGN_BYTES, 5 * ALIGN_BYTES, 2 * READ_BYTES + ALIGN_BYTES]
ALL = sum(SIZES)
ROOM = max(SIZES)  # for the largest


@pytest.fixture
def contents() -> list[bytes]:
    return [np.random.default_rng(i).bytes(size) for i, size in enumerate(SIZES)]


@pytest.fixture
def path(tmp_path: Path, contents: list[bytes]) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(bytes(ALIGN_BYTES) + b"".join(contents))
    return path


def stored(path: Path, sizes: list[int], prepare: Callable[[U8], bytes] = bytes) -> list[Stored[bytes]]:
    items, at = [], ALIGN_BYTES
    for number, size in enumerate(sizes):
        items.append(Stored(f"item {number}", ByteRange(path, at, size), prepare, Item(size, size / 1e9)))
        at += size
    return items


async def twice(weights: Weights[bytes]) -> list[bytes]:
    return [*await walk(weights, len(SIZES)), *await walk(weights, len(SIZES))]


async def walk(weights: Weights[bytes], n: int) -> list[bytes]:
    seen = []
    for index in range(n):
        async with weights.lease(index) as prepare:
            seen.append(prepare())
    return seen


@pytest.mark.parametrize("budget", [ROOM, ROOM + 4 * ALIGN_BYTES, ALL - ALIGN_BYTES, ALL, 2 * ALL])
def test_each_pass_gets_the_bytes_of_the_file(path: Path, contents: list[bytes], budget: int) -> None:
    async def run() -> None:
        progress: list[tuple[int, int]] = []
        weights = await Weights.load(stored(path, SIZES), budget, 1e9, lambda done, all: progress.append((done, all)))
        assert weights.plan.memory_bytes <= budget
        assert progress == sorted(progress)
        assert progress[-1:] in ([], [(weights.plan.resident_bytes,) * 2])
        for _ in range(3):
            assert await walk(weights, len(SIZES)) == contents
        if weights.plan.streamed_bytes:
            assert weights.traffic.read_bytes >= 3 * weights.plan.streamed_bytes
        weights.close()

    asyncio.run(run())


def test_a_walk_may_be_broken_off_and_begun_anew(path: Path, contents: list[bytes]) -> None:
    async def run() -> None:
        weights = await Weights.load(stored(path, SIZES), ROOM + 2 * ALIGN_BYTES, 1e9)
        for n in (1, 4, 2, len(SIZES), 5, len(SIZES)):
            assert await walk(weights, n) == contents[:n]
        weights.close()

    asyncio.run(run())


class HeldReads:
    """Reads that begin, and end when they are let."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.let_go = asyncio.Event(), asyncio.Event()
        read = direct_files.DirectFiles.read

        async def held(files: direct_files.DirectFiles, *arguments: Any) -> None:
            self.begun.set()
            await self.let_go.wait()
            await read(files, *arguments)

        monkeypatch.setattr(direct_files.DirectFiles, "read", held)


def test_a_walk_that_is_cancelled_while_it_waits_leaves_the_next_one_whole(
    path: Path, contents: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        weights = await Weights.load(stored(path, SIZES), ROOM, 1e9)
        reads = HeldReads(monkeypatch)
        waiting = asyncio.create_task(twice(weights))
        await reads.begun.wait()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        reads.let_go.set()
        assert await walk(weights, len(SIZES)) == contents
        weights.close()

    asyncio.run(run())


def test_a_file_that_ends_early_is_one_error_at_its_item_and_the_next_pass_tries_anew(
    path: Path, contents: list[bytes]
) -> None:
    async def run() -> None:
        weights = await Weights.load(stored(path, SIZES), ROOM, 1e9)
        assert await walk(weights, len(SIZES)) == contents
        os.truncate(path, ALL - 3 * ALIGN_BYTES)
        with pytest.raises(LoadError, match="within item 5") as failed:
            await twice(weights)  # what was read ahead before is still good
        assert str(path) in failed.value.message
        assert "verify" in (failed.value.hint or "")
        with path.open("r+b") as file:
            file.seek(ALIGN_BYTES)
            file.write(b"".join(contents))
        assert await walk(weights, len(SIZES)) == contents
        weights.close()

    asyncio.run(run())


def test_a_read_error_names_file_place_and_reason(
    path: Path, contents: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(bad: int, descriptor: int, out: memoryview, offset: int) -> int:
        if offset <= bad < offset + len(out):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return os.preadv(descriptor, [out], offset)

    async def run() -> None:
        bad = ALIGN_BYTES + SIZES[0]  # in item 1
        weights = await Weights.load(stored(path, SIZES), ROOM, 1e9)
        assert await walk(weights, len(SIZES)) == contents
        monkeypatch.setattr(direct_files, "read_at", partial(broken, bad))
        with pytest.raises(LoadError, match=r"weights cannot be read at byte \d+ \(item 1\): Input/output error"):
            await twice(weights)
        monkeypatch.undo()
        assert await walk(weights, len(SIZES)) == contents
        weights.close()

    asyncio.run(run())


def test_a_missing_file_is_an_error_of_loading(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"gone cannot be read at byte 4096 \(item 0\): No such file"):
        asyncio.run(Weights.load(stored(tmp_path / "gone", [ALIGN_BYTES]), ALIGN_BYTES, 1e9))


def test_too_small_a_budget_is_refused_with_the_numbers(path: Path) -> None:
    with pytest.raises(MemoryPlanError, match="at least"):
        asyncio.run(Weights.load(stored(path, SIZES), ROOM - 1, 1e9))


def test_a_file_that_is_replaced_is_read_as_it_was(path: Path, contents: list[bytes]) -> None:
    async def run() -> None:
        weights = await Weights.load(stored(path, SIZES), ROOM, 1e9)
        assert await walk(weights, len(SIZES)) == contents
        other = path.with_name("new")
        other.write_bytes(bytes(ALL + ALIGN_BYTES))
        other.replace(path)
        assert await walk(weights, len(SIZES)) == contents
        weights.close()

    asyncio.run(run())


def test_a_file_system_without_direct_io_is_read_all_the_same(
    path: Path, contents: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = []
    real_open = os.open

    def open_buffered(name: "str | Path", flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            refused.append(name)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real_open(name, flags, mode)

    async def run() -> None:
        monkeypatch.setattr(os, "open", open_buffered)
        weights = await Weights.load(stored(path, SIZES), ROOM, 1e9)
        assert await walk(weights, len(SIZES)) == contents
        assert refused
        weights.close()

    asyncio.run(run())


def test_a_walk_that_waits_when_the_weights_are_let_go_gets_an_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        weights = await Weights.load(stored(path, SIZES), ROOM, 1e9)
        reads = HeldReads(monkeypatch)
        waiting = asyncio.create_task(twice(weights))
        await reads.begun.wait()
        weights.close()
        reads.let_go.set()
        with pytest.raises(LoadError, match="let go"):
            await waiting

    asyncio.run(run())

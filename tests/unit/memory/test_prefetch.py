"""The prefetcher on real files: what is delivered, what an error does, what stays behind."""

import asyncio
import errno
import gc
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tpid.errors import LoadError
from tpid.memory import direct_files, prefetch
from tpid.memory.buffers import page_aligned
from tpid.memory.prefetch import Prefetcher, Streamed
from tpid.pack.reader import ByteRange
from tpid.pack.tiles import U8

PAGE = 4096
SIZES = [3 * PAGE, 8 * PAGE, 2 * PAGE, 8 * PAGE, 5 * PAGE]  # of the items, in two files
ReadAt = Callable[[int, memoryview, int], int]


@pytest.fixture(autouse=True)
def small_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "READ_BYTES", 2 * PAGE)


@pytest.fixture
def go_on(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Until it is set, no read begins."""
    event = threading.Event()
    read_at = direct_files.read_at

    def held(descriptor: int, out: memoryview, offset: int) -> int:
        event.wait()
        return read_at(descriptor, out, offset)

    monkeypatch.setattr(direct_files, "read_at", held)
    return event


@pytest.fixture
def items(tmp_path: Path) -> list[Streamed]:
    return items_in(tmp_path)


def items_in(directory: Path) -> list[Streamed]:
    rng = np.random.default_rng(3)
    found, offset = [], PAGE
    for name, sizes in (("a", SIZES[:3]), ("b", SIZES[3:])):
        path = directory / name
        path.write_bytes(rng.integers(0, 256, PAGE + sum(sizes), np.uint8).tobytes())
        offset = PAGE
        for size in sizes:
            found.append(Streamed(f"item {len(found)}", ByteRange(path, offset, size)))
            offset += size
    return found


def content(item: Streamed) -> U8:
    where = item.where
    return np.frombuffer(where.path.read_bytes()[where.offset : where.offset + where.size_bytes], np.uint8)


async def lease(prefetcher: Prefetcher, item: int) -> U8:
    """A copy of the item's bytes."""
    place = prefetcher.place_of(item)
    try:
        return (await prefetcher.ready(place)).copy()
    finally:
        prefetcher.release(place)


def run(items: list[Streamed], use: Callable[[Prefetcher], Awaitable[None]], ring_bytes: int = 10 * PAGE) -> None:
    async def main() -> None:
        prefetcher = Prefetcher(items, ring_bytes)
        prefetcher.start()
        try:
            async with asyncio.timeout(60):
                await use(prefetcher)
        finally:
            prefetcher.close()

    asyncio.run(main())


@pytest.mark.parametrize("ring_pages", [8, 9, 11, 16, 26, 40])
def test_passes_deliver_every_item_in_order(items: list[Streamed], ring_pages: int) -> None:
    async def use(prefetcher: Prefetcher) -> None:
        for _ in range(5):
            for number, item in enumerate(items):
                np.testing.assert_array_equal(await lease(prefetcher, number), content(item))
        assert prefetcher.traffic.read_bytes >= 5 * sum(SIZES)
        assert prefetcher.traffic.disk_s > 0

    run(items, use, ring_pages * PAGE)


def test_a_leased_item_stays_as_it_is_while_others_are_read(items: list[Streamed]) -> None:
    async def use(prefetcher: Prefetcher) -> None:
        place = prefetcher.place_of(0)
        data = await prefetcher.ready(place)
        while prefetcher._tasks:  # the window fills behind it
            await asyncio.wait(prefetcher._tasks)
        np.testing.assert_array_equal(data, content(items[0]))
        assert data.ctypes.data % PAGE == 0
        prefetcher.release(place)

    run(items, use)


def test_any_item_may_be_asked_for(items: list[Streamed]) -> None:
    async def use(prefetcher: Prefetcher) -> None:
        for number in (0, 1, 3, 0, 1, 2, 0, 4, 4, 0):
            np.testing.assert_array_equal(await lease(prefetcher, number), content(items[number]))

    run(items, use)


def test_one_that_is_given_up_while_it_is_awaited_is_forgotten(items: list[Streamed], go_on: threading.Event) -> None:
    async def use(prefetcher: Prefetcher) -> None:
        waiting = asyncio.create_task(lease(prefetcher, 1))
        await asyncio.sleep(0)
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        go_on.set()
        np.testing.assert_array_equal(await lease(prefetcher, 0), content(items[0]))
        np.testing.assert_array_equal(await lease(prefetcher, 1), content(items[1]))

    run(items, use)


def test_a_file_that_is_cut_is_named_and_works_again_when_it_is_mended(items: list[Streamed]) -> None:
    path = items[3].where.path
    whole = path.read_bytes()

    async def use(prefetcher: Prefetcher) -> None:
        for number in range(3):
            await lease(prefetcher, number)
        os.truncate(path, PAGE + SIZES[3] - 100)
        await lease(prefetcher, 0)  # what had been read ahead is dropped
        with pytest.raises(LoadError, match=r"b ends before byte \d+, within item 3\.") as caught:
            await lease(prefetcher, 3)
        assert caught.value.hint is not None
        with pytest.raises(LoadError, match=r"within item 3\."):
            await lease(prefetcher, 3)
        np.testing.assert_array_equal(await lease(prefetcher, 1), content(items[1]))
        with path.open("r+b") as file:
            file.write(whole)
        np.testing.assert_array_equal(await lease(prefetcher, 3), np.frombuffer(whole, np.uint8)[PAGE : 9 * PAGE])

    run(items, use)


def test_a_file_that_vanished_before_it_was_read_is_named(items: list[Streamed]) -> None:
    path = items[3].where.path
    aside = path.rename(path.with_suffix(".aside"))

    async def use(prefetcher: Prefetcher) -> None:
        await lease(prefetcher, 2)
        with pytest.raises(LoadError, match=r"b cannot be read at byte 4096 \(item 3\): No such file"):
            await lease(prefetcher, 3)
        aside.rename(path)
        np.testing.assert_array_equal(await lease(prefetcher, 3), content(items[3]))

    run(items, use)


def test_a_file_that_is_replaced_goes_on_as_it_was(items: list[Streamed]) -> None:
    path, expected = items[0].where.path, content(items[0])

    async def use(prefetcher: Prefetcher) -> None:
        for number in range(len(items)):
            await lease(prefetcher, number)
        other = path.with_suffix(".new")
        other.write_bytes(bytes(path.stat().st_size))
        other.replace(path)
        for _ in range(2):
            np.testing.assert_array_equal(await lease(prefetcher, 0), expected)
            await lease(prefetcher, 3)

    run(items, use)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EIO, "Input/output error"), r"b cannot be read at byte \d+ \(item 4\): Input/output error"),
        (ZeroDivisionError("a bug"), "a bug"),
    ],
)
def test_an_error_is_raised_where_the_item_is_awaited_and_once(
    items: list[Streamed], monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    read_at, broken = direct_files.read_at, True
    where = items[4].where

    def fail(descriptor: int, out: memoryview, offset: int) -> int:
        if broken and os.readlink(f"/proc/self/fd/{descriptor}") == str(where.path) and offset >= where.offset:
            raise error
        return read_at(descriptor, out, offset)

    monkeypatch.setattr(direct_files, "read_at", fail)

    async def use(prefetcher: Prefetcher) -> None:
        nonlocal broken
        for _ in range(3):
            for number in range(4):
                np.testing.assert_array_equal(await lease(prefetcher, number), content(items[number]))
            with pytest.raises(type(error) if not isinstance(error, OSError) else LoadError, match=message):
                await lease(prefetcher, 4)
        broken = False
        for number, item in enumerate(items):
            np.testing.assert_array_equal(await lease(prefetcher, number), content(item))

    run(items, use)


def test_a_read_that_ends_early_is_gone_on_with(items: list[Streamed], monkeypatch: pytest.MonkeyPatch) -> None:
    preadv = os.preadv

    def one_page(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        return preadv(descriptor, [buffers[0][:PAGE]], offset)

    monkeypatch.setattr(os, "preadv", one_page)

    async def use(prefetcher: Prefetcher) -> None:
        np.testing.assert_array_equal(await lease(prefetcher, 1), content(items[1]))

    run(items, use)


def refuse_direct_reads(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """As file systems do that open a file for direct I/O and cannot do it; gives what each read was."""
    read_at, direct = direct_files.read_at, []

    def refuse(descriptor: int, out: memoryview, offset: int) -> int:
        direct.append(bool(direct_files.fcntl.fcntl(descriptor, direct_files.fcntl.F_GETFL) & os.O_DIRECT))
        if direct[-1]:
            raise OSError(errno.EINVAL, "Invalid argument")
        return read_at(descriptor, out, offset)

    monkeypatch.setattr(direct_files, "read_at", refuse)
    return direct


def test_where_direct_reads_are_refused_they_are_buffered(
    items: list[Streamed], monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = refuse_direct_reads(monkeypatch)

    async def use(prefetcher: Prefetcher) -> None:
        for _ in range(3):
            for number, item in enumerate(items):
                np.testing.assert_array_equal(await lease(prefetcher, number), content(item))

    run(items, use)
    assert not any(direct[-len(items) :])


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A directory of a file system in memory."""
    path = Path("/dev/shm") / f"tpid-test-{os.getpid()}"
    if not os.access(path.parent, os.W_OK):
        pytest.skip("there is no file system in memory")
    path.mkdir()
    try:
        yield path
    finally:
        for file in path.iterdir():
            file.unlink()
        path.rmdir()


def test_a_file_system_in_memory_is_read_as_well(in_memory: Path) -> None:
    items = items_in(in_memory)

    async def use(prefetcher: Prefetcher) -> None:
        for number, item in enumerate(items):
            np.testing.assert_array_equal(await lease(prefetcher, number), content(item))

    run(items, use)


def test_nothing_stays_open_and_the_ring_is_given_back(items: list[Streamed]) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    threads = {thread.name for thread in threading.enumerate()}
    ring: list[weakref.ref[object]] = []

    async def use(prefetcher: Prefetcher) -> None:
        ring.append(weakref.ref(prefetcher._ring))
        await lease(prefetcher, 0)
        prefetcher.close()  # while reads are under way
        with pytest.raises(LoadError, match="let go"):
            await lease(prefetcher, 1)
        while prefetcher._tasks:
            await asyncio.wait(prefetcher._tasks)

    run(items, use)
    gc.collect()
    assert ring[0]() is None
    assert len(os.listdir("/proc/self/fd")) == descriptors
    disk = [t for t in threading.enumerate() if t.name.startswith("disk") and t.name not in threads]
    for thread in disk:
        thread.join(30)
        assert not thread.is_alive()


def test_who_waits_when_it_is_closed_is_told(items: list[Streamed], go_on: threading.Event) -> None:
    async def use(prefetcher: Prefetcher) -> None:
        waiting = asyncio.create_task(lease(prefetcher, 0))
        await asyncio.sleep(0)
        prefetcher.close()
        with pytest.raises(LoadError, match="let go"):
            await waiting
        go_on.set()

    run(items, use)


def cached_bytes(path: Path) -> int:
    """Of a file in the page cache, as the kernel tells of a mapping."""
    import ctypes  # noqa: PLC0415
    import mmap  # noqa: PLC0415

    size = path.stat().st_size
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as mapped:
        pages = (ctypes.c_ubyte * -(-size // PAGE))()
        view = (ctypes.c_char * size).from_buffer(mapped)
        address = ctypes.addressof(view)
        assert ctypes.CDLL(None).mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), pages) == 0
        del view
    return sum(page & 1 for page in pages) * PAGE


def test_direct_reads_leave_nothing_in_the_page_cache(items: list[Streamed]) -> None:
    for path in {item.where.path for item in items}:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    async def use(prefetcher: Prefetcher) -> None:
        for _ in range(2):
            for number in range(len(items)):
                await lease(prefetcher, number)
        while prefetcher._tasks:  # each drops what it has read
            await asyncio.wait(prefetcher._tasks)

    run(items, use)
    assert sum(cached_bytes(path) for path in {item.where.path for item in items}) <= 2 * PAGE


@pytest.mark.parametrize("size_bytes", [0, 1, 4096, 100_001, 5 << 20])
def test_buffers_start_at_a_page(size_bytes: int) -> None:
    buffers = [page_aligned(size_bytes) for _ in range(5)]
    assert {buffer.size for buffer in buffers} == {size_bytes}
    assert size_bytes == 0 or all(buffer.ctypes.data % PAGE == 0 for buffer in buffers)


def test_memory_that_the_system_does_not_have_is_a_typed_error() -> None:
    with pytest.raises(LoadError, match="PB of memory for weights"):
        page_aligned(1 << 60)

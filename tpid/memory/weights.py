"""The weights of a share, item by item in the order of a pass: some stay in memory, the others stream."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

from tpid.errors import LoadError
from tpid.memory.buffers import page_aligned
from tpid.memory.direct_files import DirectFiles
from tpid.memory.prefetch import READ_BYTES, Prefetcher, Streamed, Traffic
from tpid.memory.residency import Item, ResidencyPlan, plan_residency
from tpid.memory.window import Place
from tpid.pack.reader import ByteRange
from tpid.pack.tiles import U8

Prepared = TypeVar("Prepared")
LoadProgress = Callable[[int, int], None]  # bytes read, bytes in all

_LOADS = 3  # items that are read at once while a share is loaded


@dataclass(frozen=True, slots=True)
class Stored(Generic[Prepared]):
    """An item on disk, and how it becomes what the backend computes with."""

    name: str  # for errors: which block or slice
    where: ByteRange  # empty where the share has nothing in this block
    prepare: Callable[[U8], Prepared]  # gets the item's bytes, which stay until it is released
    item: Item


class Weights(Generic[Prepared]):
    """Leases items to the walker, one at a time."""

    def __init__(self, items: Sequence[Stored[Prepared]], plan: ResidencyPlan, resident: dict[int, Prepared]) -> None:
        self.plan = plan
        self._items = items
        self._resident = {index: _Resident(prepared) for index, prepared in resident.items()}
        streaming = [index for index in range(len(items)) if index not in resident]
        self._streamed = {index: number for number, index in enumerate(streaming)}
        streamed = [Streamed(items[index].name, items[index].where) for index in streaming]
        self._prefetcher = Prefetcher(streamed, plan.window_bytes)
        self._prefetcher.start()

    @classmethod
    async def load(
        cls,
        items: Sequence[Stored[Prepared]],
        budget_bytes: int,
        disk_bytes_s: float,
        progress: LoadProgress = lambda done, total: None,
    ) -> "Weights[Prepared]":
        """Read what stays, and begin to read ahead. Raises MemoryPlanError or LoadError."""
        plan = await asyncio.to_thread(plan_residency, [stored.item for stored in items], budget_bytes, disk_bytes_s)
        staying = [index for index, stored in enumerate(items) if plan.resident[index] or stored.where.size_bytes == 0]
        return cls(items, plan, await _read_all(items, staying, progress))

    @property
    def streams(self) -> bool:
        """Whether a pass reads from disk."""
        return bool(self._streamed)

    @property
    def traffic(self) -> Traffic:
        return self._prefetcher.traffic

    def lease(self, index: int) -> "Lease[Prepared]":
        """`async with` gives what prepares the item for the backend; call it where the computing is done.

        Raises LoadError where its bytes cannot be read.
        """
        if not self._items:
            raise LoadError("The weights were let go while a pass was under way.", hint="Try again.")
        resident = self._resident.get(index)
        if resident is not None:
            return resident
        return _FromDisk(self._prefetcher, self._streamed[index], self._items[index].prepare)

    def close(self) -> None:
        """Let go of all memory; a lease that is held keeps what it has."""
        self._prefetcher.close()
        self._resident.clear()
        self._items = ()


class Lease(Generic[Prepared]):
    """An item while the walker needs it."""

    async def __aenter__(self) -> Callable[[], Prepared]:
        raise NotImplementedError

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        return None


class _Resident(Lease[Prepared]):
    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared

    async def __aenter__(self) -> Callable[[], Prepared]:
        return self._get

    def _get(self) -> Prepared:
        return self._prepared


class _FromDisk(Lease[Prepared]):
    def __init__(self, prefetcher: Prefetcher, number: int, prepare: Callable[[U8], Prepared]) -> None:
        self._prefetcher = prefetcher
        self._number = number
        self._prepare = prepare
        self._place: Place | None = None

    async def __aenter__(self) -> Callable[[], Prepared]:
        self._place = self._prefetcher.place_of(self._number)
        try:
            data = await self._prefetcher.ready(self._place)
        except BaseException:
            self._prefetcher.release(self._place)
            raise
        return lambda: self._prepare(data)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._place is not None:
            self._prefetcher.release(self._place)


async def _read_all(
    items: Sequence[Stored[Prepared]], chosen: Sequence[int], progress: LoadProgress
) -> dict[int, Prepared]:
    """Read and prepare the chosen items, a few at once."""
    total, done = sum(items[index].where.size_bytes for index in chosen), 0
    found: dict[int, Prepared] = {}
    queue = list(reversed(chosen))
    executor = ThreadPoolExecutor(_LOADS, thread_name_prefix="disk")
    files = DirectFiles(executor)

    async def read_some() -> None:
        nonlocal done
        while queue:
            index = queue.pop()
            stored = items[index]
            data = page_aligned(stored.where.size_bytes)
            for start in range(0, len(data), READ_BYTES):
                out = memoryview(data)[start : start + READ_BYTES]
                await files.read(stored.name, stored.where, start, out)
                done += len(out)
                progress(done, total)
            found[index] = await asyncio.to_thread(stored.prepare, data)

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_LOADS):
                tasks.create_task(read_some(), name="load")
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    finally:
        # Not on this task: it may be cancelled while it waits, and the files would stay open.
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, _end_reads, executor, files))
    return found


def _end_reads(executor: ThreadPoolExecutor, files: DirectFiles) -> None:
    """Wait for the reads under way, then close."""
    executor.shutdown()
    files.close()

"""Other ways to have weights that do not fit, for the same engine and kernels: what ours is compared with.

`window-W`: the policy of the TPI-LLM paper. Nothing stays; a window of W blocks moves over the pass, and a block is
freed only when the next one has been computed. Better than its authors' code in all else, because it uses our reader
(direct, several reads at once, reading on across the end of a pass) and our slices of the head.

`mmap`: what llama.cpp and prima.cpp do. Weights are views of the pack's files, mapped with their advice to the kernel
(sequential, will need); the page cache of the cgroup decides what stays.
"""

import mmap
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tpid.engine.loaded import LoadWeights
from tpid.memory.prefetch import MAX_READS, READ_BYTES, Prefetcher, Streamed, Traffic
from tpid.memory.residency import ResidencyPlan
from tpid.memory.weights import LoadProgress, Stored, Weights
from tpid.memory.window import Place, Window
from tpid.pack.tiles import U8


def loader_of(policy: str) -> LoadWeights:
    """Raises ValueError."""
    kind, _, blocks = policy.partition("-")
    if policy == "ours":
        return Weights.load
    if policy == "mmap":
        return _map
    if kind == "window" and blocks.isdecimal() and int(blocks) > 1:
        return partial(_window_only, int(blocks))
    raise ValueError(f"{policy} is none of ours, mmap, window-2, window-4")


class WindowOnly:
    """Weights for the engine through a window of so many blocks."""

    streams = True

    def __init__(self, items: Sequence[Stored[Any]], blocks: int) -> None:
        self._items = items
        streaming = [index for index, stored in enumerate(items) if stored.where.size_bytes]
        self._number = {index: number for number, index in enumerate(streaming)}
        streamed = [Streamed(items[index].name, items[index].where) for index in streaming]
        sizes = [item.where.size_bytes for item in streamed]
        # Their number is the limit, not their bytes: one more for what lies idle where the ring begins anew.
        ring_bytes = (blocks + 1) * max(sizes)
        self.plan = ResidencyPlan((False,) * len(items), ring_bytes, 0, 0, sum(sizes))
        self._prefetcher = _BlockPrefetcher(streamed, ring_bytes, _BlockWindow(sizes, ring_bytes, blocks))
        self._prefetcher.start()

    @property
    def traffic(self) -> Traffic:
        return self._prefetcher.traffic

    @asynccontextmanager
    async def lease(self, index: int) -> AsyncIterator[Callable[[], Any]]:
        stored = self._items[index]
        if index not in self._number:
            yield lambda: stored.prepare(np.empty(0, np.uint8))
            return
        place = self._prefetcher.place_of(self._number[index])
        try:
            data = await self._prefetcher.ready(place)
            yield lambda: stored.prepare(data)
        finally:
            self._prefetcher.release(place)

    def close(self) -> None:
        self._prefetcher.close()


class _BlockPrefetcher(Prefetcher):
    def __init__(self, items: Sequence[Streamed], ring_bytes: int, window: Window) -> None:
        super().__init__(items, ring_bytes)
        self._window = window


class _BlockWindow(Window):
    """At most `blocks` items at once, and one is free only when the one behind it is."""

    def __init__(self, sizes_bytes: Sequence[int], ring_bytes: int, blocks: int) -> None:
        super().__init__(sizes_bytes, ring_bytes, READ_BYTES, MAX_READS)
        self._blocks = blocks
        self._held: Place | None = None  # computed with, and still there

    def wanted(self, item: int) -> Place:
        ahead = next((place for place in self._places if not place.released and place is not self._held), None)
        if ahead is not None and ahead.item == item:
            return ahead
        self._held = None  # a pass without logits has left out the head
        return super().wanted(item)

    def release(self, place: Place) -> None:
        if self._held is not None:
            super().release(self._held)
        self._held = place

    def next_read(self) -> Any:
        last = self._places[-1] if self._places else None
        is_new = last is None or last.released or last.asked_bytes == last.size_bytes
        if is_new and sum(not place.released for place in self._places) >= self._blocks:
            return None
        return super().next_read()


async def _window_only(
    blocks: int, items: Sequence[Stored[Any]], budget_bytes: int, disk_bytes_s: float, progress: LoadProgress
) -> Any:
    return WindowOnly(items, blocks)


class Mapped:
    """Weights for the engine as views of files."""

    streams = True

    def __init__(self, items: Sequence[Stored[Any]]) -> None:
        self._items = items
        files = {path: _mapping(path) for path in {stored.where.path for stored in items}}
        self._prepared = []
        for stored in items:
            begin = stored.where.offset
            self._prepared.append(stored.prepare(files[stored.where.path][begin : begin + stored.where.size_bytes]))
        self.plan = ResidencyPlan((False,) * len(items), 0, 0, 0, sum(stored.where.size_bytes for stored in items))
        self.traffic = Traffic()  # nobody sees it but the kernel

    def lease(self, index: int) -> AbstractAsyncContextManager[Callable[[], Any]]:
        return self._lease(self._prepared[index])

    def close(self) -> None:
        self._prepared.clear()

    @asynccontextmanager
    async def _lease(self, prepared: Any) -> AsyncIterator[Callable[[], Any]]:
        yield lambda: prepared


async def _map(items: Sequence[Stored[Any]], budget_bytes: int, disk_bytes_s: float, progress: LoadProgress) -> Any:
    return Mapped(items)


def _mapping(path: Path) -> U8:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        mapping = mmap.mmap(descriptor, 0, mmap.MAP_SHARED, mmap.PROT_READ)
    finally:
        os.close(descriptor)
    mapping.madvise(mmap.MADV_WILLNEED)
    return np.frombuffer(mapping, np.uint8)

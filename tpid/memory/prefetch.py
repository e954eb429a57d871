"""The prefetcher: reads ahead into the window while others compute, across the end of a pass into the next.

The window says what may be read and where; this is its shell on the event loop. Reads go past the page cache, several
at once, straight into the ring. The error of a read is raised where its item is awaited, and the next pass tries anew.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tpid.errors import LoadError, TpidError
from tpid.memory.buffers import page_aligned
from tpid.memory.direct_files import DirectFiles
from tpid.memory.window import Place, Read, Window
from tpid.pack.reader import ByteRange
from tpid.pack.tiles import U8

log = logging.getLogger(__name__)

# Measured on a virtual disk of some 3 GB/s into huge pages: 4 MB in two or three reads at once keep it busy, 1 MB does
# not. Each read also costs the loop and a thread about 0.2 ms of a core, which 8 MB make rare.
READ_BYTES = 8 << 20
MAX_READS = 3


@dataclass(frozen=True, slots=True)
class Streamed:
    """An item that is read with every pass."""

    name: str  # for errors
    where: ByteRange


@dataclass(slots=True)
class Traffic:
    """What the disk did and what it cost, since the beginning."""

    read_bytes: int = 0
    disk_s: float = 0.0  # with a read under way
    stall_s: float = 0.0  # that the walker waited


class Prefetcher:
    """All methods on the event loop. One walker: it leases items in the order of a pass, one at a time."""

    def __init__(self, items: Sequence[Streamed], ring_bytes: int) -> None:
        self.traffic = Traffic()
        self._items = items
        self._ring = page_aligned(ring_bytes)
        self._window = Window([item.where.size_bytes for item in items], ring_bytes, READ_BYTES, MAX_READS)
        self._executor = ThreadPoolExecutor(MAX_READS, thread_name_prefix="disk")
        self._files = DirectFiles(self._executor)
        self._tasks: set[asyncio.Task[None]] = set()
        self._awaited: tuple[Place, asyncio.Future[None]] | None = None
        self._busy_since_s = 0.0
        self._closed = False

    def start(self) -> None:
        """Read ahead for the first pass."""
        while not self._closed and (read := self._window.next_read()) is not None:
            if not self._tasks:
                self._busy_since_s = time.perf_counter()
            task = asyncio.get_running_loop().create_task(self._read(read), name="read-ahead")
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def place_of(self, item: int) -> Place:
        """Where the walker finds `item`, now or soon."""
        if self._closed:
            raise LoadError("The weights were let go while a pass was under way.", hint="Try again.")
        place = self._window.wanted(item)
        self.start()
        return place

    async def ready(self, place: Place) -> U8:
        """The item's bytes, [size] uint8, until it is released. Raises LoadError."""
        if not place.ready and place.error is None:
            started = time.perf_counter()
            future = asyncio.get_running_loop().create_future()
            self._awaited = place, future
            try:
                await future
            finally:
                self._awaited = None
                self.traffic.stall_s += time.perf_counter() - started
        if place.error is not None:
            raise place.error.again() if isinstance(place.error, TpidError) else place.error
        begin = place.begin % len(self._ring)
        return self._ring[begin : begin + place.size_bytes]

    def release(self, place: Place) -> None:
        self._window.release(place)
        self.start()

    def close(self) -> None:
        """Reads under way end in their own time; files and threads go with the last of them."""
        self._closed = True
        if self._awaited is not None and not self._awaited[1].done():
            self._awaited[0].error = LoadError(
                "The weights were let go while a pass waited for them.", hint="Try again."
            )
            self._awaited[1].set_result(None)
        if not self._tasks:
            self._free()

    async def _read(self, read: Read) -> None:
        item = self._items[read.place.item]
        out = memoryview(self._ring)[read.ring_offset : read.ring_offset + read.size_bytes]
        try:
            await self._files.read(item.name, item.where, read.item_offset, out)
        except Exception as error:  # raised where the item is awaited
            log.warning("read_failed item=%r reason=%r", item.name, str(error))
            self._window.failed(read, error)
        else:
            self._window.done(read)
            self.traffic.read_bytes += read.size_bytes

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        now = time.perf_counter()
        self.traffic.disk_s += now - self._busy_since_s
        self._busy_since_s = now
        if task.cancelled():  # the event loop is being closed
            self._closed = True
        if self._closed:
            if not self._tasks:
                self._free()
            return
        self.start()
        if self._awaited is not None:
            place, future = self._awaited
            if (place.ready or place.error is not None) and not future.done():
                future.set_result(None)

    def _free(self) -> None:
        self._ring = page_aligned(0)
        self._files.close()
        self._executor.shutdown(wait=False)

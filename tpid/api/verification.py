"""Verifying a pack on demand: progress and faults as they are found, until the client goes away."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator
from typing import Any

from tpid.api.faults import describe
from tpid.errors import BusyError
from tpid.pack.reader import Pack
from tpid.pack.verify import Progress, pack_faults

log = logging.getLogger(__name__)

MIN_REPORT_INTERVAL_S = 0.1
MAX_FAULTS = 1000  # a pack with more is another pack; the rest is counted


class Verifications:
    """One at a time: two would only share the disk."""

    def __init__(self) -> None:
        self._running: str | None = None

    async def run(self, pack: Pack) -> AsyncGenerator[dict[str, Any], None]:
        """Progress and `fault`s; the last item has the key `verified`.

        Closing the iterator ends the work at the next unit. Raises BusyError.
        """
        if self._running is not None:
            raise BusyError(f"{self._running} is being verified.", hint="Try again when it is done.")
        self._running = pack.name
        loop, lines = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any] | None]()
        stop = threading.Event()
        work = _Work(pack, stop, lambda line: loop.call_soon_threadsafe(lines.put_nowait, line))
        thread = asyncio.create_task(asyncio.to_thread(work.run), name="verify")
        thread.add_done_callback(lambda _: lines.put_nowait(None))
        log.info("verify_started model=%s", pack.name)
        try:
            while (line := await lines.get()) is not None:
                yield line
        finally:
            stop.set()
            await asyncio.wait({thread})
            self._running = None
            log.info("verify_ended model=%s faults=%d", pack.name, work.n_faults)
        # Told when the next one may begin: who reads it may ask for one at once.
        yield {"verified": await thread}


class _Work:
    """What runs in the thread; `tell` is called there."""

    def __init__(self, pack: Pack, stop: threading.Event, tell: Any) -> None:
        self._pack = pack
        self._stop = stop
        self._tell = tell
        self._told_s = 0.0
        self._done_bytes = 0
        self.n_faults = 0

    def run(self) -> dict[str, Any]:
        try:
            for fault in pack_faults(self._pack, self._progress):
                self.n_faults += 1
                if self.n_faults <= MAX_FAULTS:
                    self._tell({"fault": describe(fault)})
        except _StoppedError:
            pass
        return {"name": self._pack.name, "checked_bytes": self._done_bytes, "n_faults": self.n_faults}

    def _progress(self, progress: Progress) -> None:
        self._done_bytes = progress.done_bytes
        if self._stop.is_set():
            raise _StoppedError
        now_s = time.monotonic()
        if progress.done_bytes == progress.total_bytes or now_s - self._told_s >= MIN_REPORT_INTERVAL_S:
            self._told_s = now_s
            done, total = progress.done_bytes, progress.total_bytes
            self._tell({"stage": progress.stage, "done_bytes": done, "total_bytes": total})


class _StoppedError(Exception):
    """The client is gone."""

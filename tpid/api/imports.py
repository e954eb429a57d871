"""Imports as the daemon runs them: one at a time, each in a process of its own."""

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from tpid.errors import BusyError

log = logging.getLogger(__name__)

END_TIMEOUT_S = 5.0  # an import that is told to end finishes its present chunk first
MAX_LINE_BYTES = 1 << 16


class Imports:
    def __init__(self) -> None:
        self._running: str | None = None

    async def run(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str] = MappingProxyType({})
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Progress of one import; the last item has the key `pack` or `error`. `environment` adds to the daemon's.

        Closing the iterator ends the import, which can go on later from where it was. Raises BusyError.
        """
        if self._running is not None:
            raise BusyError(f"{self._running} is being imported.", hint="Try again when it is done.")
        self._running = name
        last: dict[str, Any] | None = None
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tpid.pack.import_command", *arguments),
                stdout=asyncio.subprocess.PIPE,
                limit=MAX_LINE_BYTES,
                env={**os.environ, **environment},
            )
            log.info("import_started name=%r pid=%d", name, process.pid)
            try:
                async for item in _lines(process):
                    if "pack" in item or "error" in item:
                        last = item
                    else:
                        yield item
            finally:
                await _end(process)
                log.info("import_ended name=%r exit=%s", name, process.returncode)
        finally:
            self._running = None
        # Told when the next import may begin: who reads it may ask for one at once.
        yield last or _unexpected(process.returncode)


async def _lines(process: asyncio.subprocess.Process) -> AsyncGenerator[dict[str, Any], None]:
    """What an import tells, until it ends or tells what is no JSON object."""
    if process.stdout is None:
        raise RuntimeError("the import has no output")
    try:
        async for line in process.stdout:
            item = json.loads(line)
            if not isinstance(item, dict):
                return
            yield item
    except ValueError:  # no JSON, or a line above the limit
        log.warning("import_unreadable pid=%d", process.pid)
        return
    await process.wait()


def _unexpected(code: int | None) -> dict[str, Any]:
    message = f"The import ended unexpectedly (exit code {code})."
    return {"error": {"code": "import", "message": message, "hint": "See the daemon's log, then try again."}}


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), END_TIMEOUT_S)
    except TimeoutError:
        process.kill()
        await process.wait()

"""One file from its source: several ranges at once, going on after cuts, stalls and an owner's Ctrl-C."""

import asyncio
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from yarl import URL

from tpid.download.faults import PassingFaultError, Persistence
from tpid.download.partial import Identity, PartialFile, Segment
from tpid.download.web import Located, Web
from tpid.errors import PullError

AT_ONCE = 4  # requests to one source
MAX_RESTARTS = 2  # where the source has another file than before
_CHUNK_BYTES = 1 << 20
_STARTS_AT = re.compile(r"bytes (\d{1,15})-\d{1,15}/(\d{1,15}|\*)")

OnBytes = Callable[[int], None]  # of this file, so far


class _ChangedError(Exception):
    """The source has another file now than when this one was begun."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file elsewhere. `where` is what people call it; `sha256` what whoever asks for it expects."""

    url: URL
    where: str
    sha256: str | None


class Transfer:
    """Fetches `source` into `path`, in two steps: `fetch` and `check`."""

    def __init__(self, web: Web, source: Source, path: Path, tries: Persistence) -> None:
        self._web = web
        self._source = source
        self._where = source.where
        self._path = path
        self._tries = tries
        self._located: Located | None = None

    async def locate(self) -> Located:
        """Where the bytes are now; kept until a request fails. Raises PullError."""
        while self._located is None:
            try:
                self._located = await self._web.locate(self._source.url, self._where)
            except PassingFaultError as fault:
                await self._tries.wait(fault)
        return self._located

    async def fetch(self, on_bytes: OnBytes) -> None:
        """All bytes, beside `path` still; `check` comes next. Raises PullError or OSError.

        Cancelled, it leaves what it has, to be gone on with.
        """
        for _ in range(MAX_RESTARTS + 1):
            located = await self.locate()
            with PartialFile(self._path, self._identity(located)) as partial:
                if not located.takes_ranges and partial.done_bytes < partial.identity.size_bytes:
                    partial.forget()
                on_bytes(partial.done_bytes)
                try:
                    await self._segments(partial, located, on_bytes)
                    return
                except _ChangedError:
                    partial.discard()
                    self._located = None
        raise PullError(f"{self._where} changes while it is fetched.", hint="Try again when its publisher is done.")

    async def check(self, on_bytes: OnBytes) -> None:
        """Compare with the published digest, where there is one; then the file has its name. Raises PullError."""
        with PartialFile(self._path, self._identity(await self.locate())) as partial:
            if partial.done_bytes < partial.identity.size_bytes:
                raise PullError(f"{self._where} changes while it is fetched.", hint="Try again a little later.")
            if partial.identity.sha256 is not None:
                await _compare(partial, partial.identity.sha256, self._where, on_bytes)
            partial.publish()

    def _identity(self, located: Located) -> Identity:
        if located.size_bytes is None:
            raise PullError(
                f"The server of {self._where} does not say how large the file is.",
                hint="Download it with a browser, then tpictl import it.",
            )
        return Identity(located.size_bytes, located.etag, self._source.sha256 or located.sha256)

    async def _segments(self, partial: PartialFile, located: Located, on_bytes: OnBytes) -> None:
        if not located.takes_ranges:
            await self._whole(partial, on_bytes)
            return
        waiting = [segment for segment in reversed(partial.segments) if not segment.is_whole]
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(AT_ONCE, len(waiting))):
                    tasks.create_task(self._work(partial, waiting, on_bytes), name="range")
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _work(self, partial: PartialFile, waiting: list[Segment], on_bytes: OnBytes) -> None:
        """Take segments until there are none."""
        while waiting:
            segment = waiting.pop()
            while not segment.is_whole:
                try:
                    await self._range(partial, segment, on_bytes)
                except PassingFaultError as fault:
                    self._located = None  # signed addresses run out
                    await self._tries.wait(fault)

    async def _range(self, partial: PartialFile, segment: Segment, on_bytes: OnBytes) -> None:
        located = await self.locate()
        if self._identity(located).differs_from(partial.identity):
            raise _ChangedError
        headers = {"Range": f"bytes={segment.position}-{segment.stop - 1}"}
        if located.etag is not None:
            headers["If-Range"] = located.etag
        try:
            async with self._web.following(located.url, self._where, headers) as (response, _):
                match = _STARTS_AT.fullmatch(response.headers.get("Content-Range", ""))
                if response.status != 206 or match is None or int(match[1]) != segment.position:
                    raise _ChangedError
                await self._read(response, partial, segment, on_bytes)
        except PullError as error:
            if located.url == self._source.url:
                raise
            # A redirect's target may be signed for an hour: the source itself knows whether we may still have it.
            raise PassingFaultError(error.message.removesuffix(".")) from error

    async def _whole(self, partial: PartialFile, on_bytes: OnBytes) -> None:
        """From a server that knows no ranges: a cut means to begin again."""
        while partial.done_bytes < partial.identity.size_bytes:
            partial.forget()
            try:
                located = await self.locate()
                async with self._web.following(located.url, self._where, {}) as (response, _):
                    if response.status != 200 or response.content_length != partial.identity.size_bytes:
                        raise _ChangedError
                    for segment in partial.segments:
                        await self._read(response, partial, segment, on_bytes, counts=False)
            except PassingFaultError as fault:
                self._located = None
                await self._tries.wait(fault)

    async def _read(
        self,
        response: aiohttp.ClientResponse,
        partial: PartialFile,
        segment: Segment,
        on_bytes: OnBytes,
        *,
        counts: bool = True,
    ) -> None:
        """Up to the segment's end; `counts`: what comes is kept after a cut, so it is progress.

        Raises PassingFaultError where the answer ends before.
        """
        while not segment.is_whole:
            data = await response.content.read(min(segment.stop - segment.position, _CHUNK_BYTES))
            if not data:
                raise PassingFaultError(f"The connection for {self._where} was cut")
            partial.write(segment, data)
            if counts:
                self._tries.progressed()
            on_bytes(partial.done_bytes)


async def _compare(partial: PartialFile, expected: str, where: str, on_bytes: OnBytes) -> None:
    """Raises PullError for other bytes than were published; then nothing of them stays."""
    hasher, size_bytes = hashlib.sha256(), partial.identity.size_bytes
    for start in range(0, size_bytes, _CHUNK_BYTES):
        hasher.update(partial.read(start, _CHUNK_BYTES))
        on_bytes(min(start + _CHUNK_BYTES, size_bytes))
        await asyncio.sleep(0)  # Ctrl-C is for here, too
    actual = hasher.hexdigest()
    if actual != expected:
        partial.discard()
        raise PullError(
            f"{where} came with digest {actual[:12]}…, published is {expected[:12]}…; what came is removed.",
            hint="Try again; if it stays so, something between here and its source changes the file.",
        )

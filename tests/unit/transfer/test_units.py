"""One share at a time: what a plan waits for goes before what is got meanwhile, and nothing that came is lost."""

import asyncio
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tpid.errors import DiskFullError, TpidError, UnitsError
from tpid.pack.geometry import Share, UnitRange
from tpid.pack.manifest import PackId
from tpid.pack.store import PackStore
from tpid.transfer import units as units_module
from tpid.transfer.units import Units

ONE, OTHER = (Share(UnitRange(0, n), UnitRange(0, 4)) for n in (1, 2))
PACK, SECOND = PackId("ab" * 32), PackId("cd" * 32)


@dataclass
class ScriptedFetcher:
    """Each call takes until `go` is set, and ends with the next of `errors`."""

    go: asyncio.Event = field(default_factory=asyncio.Event)
    errors: list[TpidError] = field(default_factory=list)
    begun: list[tuple[PackId, Share]] = field(default_factory=list)
    ended: list[tuple[PackId, Share]] = field(default_factory=list)
    kept: list[Collection[PackId]] = field(default_factory=list)
    n_at_once: int = 0
    most_at_once: int = 0

    async def complete(self, pack: PackId, share: Share, progress: Any, keep: Collection[PackId] = ()) -> Any:
        self.begun.append((pack, share))
        self.kept.append(keep)
        self.n_at_once += 1
        self.most_at_once = max(self.most_at_once, self.n_at_once)
        try:
            await self.go.wait()
            if self.errors:
                raise self.errors.pop(0)
            self.ended.append((pack, share))
            return SimpleNamespace(pack="the pack")
        finally:
            self.n_at_once -= 1


def run(tmp_path: Path, test: Callable[[Units, ScriptedFetcher], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        units = Units(PackStore(tmp_path), SimpleNamespace(peers={}), SimpleNamespace(members={}))  # type: ignore[arg-type]
        fetcher = units._fetcher = ScriptedFetcher()  # type: ignore[assignment]
        async with asyncio.timeout(20):
            await test(units, fetcher)  # type: ignore[arg-type]
            await units.close()
        assert fetcher.most_at_once == 1

    asyncio.run(main())


def nothing(done: int, total: int) -> None:
    return None


def test_a_load_does_not_wait_for_what_was_begun(tmp_path: Path) -> None:
    async def test(units: Units, fetcher: ScriptedFetcher) -> None:
        ended = asyncio.Event()
        units.begin(PACK, ONE, ended.set)
        await asyncio.sleep(0)
        loading = asyncio.create_task(units.complete(PACK, OTHER, nothing))
        await ended.wait()
        fetcher.go.set()
        assert await loading == "the pack"
        assert fetcher.ended == [(PACK, OTHER)]

    run(tmp_path, test)


def test_what_is_begun_waits_for_a_load_and_leaves_its_units(tmp_path: Path) -> None:
    async def test(units: Units, fetcher: ScriptedFetcher) -> None:
        loading = asyncio.create_task(units.complete(PACK, ONE, nothing))
        await asyncio.sleep(0)
        ended = asyncio.Event()
        units.begin(SECOND, OTHER, ended.set)
        await asyncio.sleep(0.01)
        assert fetcher.begun == [(PACK, ONE)]
        fetcher.go.set()
        await loading
        await ended.wait()
        assert fetcher.ended == [(PACK, ONE), (SECOND, OTHER)]
        assert fetcher.kept[1] == {PACK}

    run(tmp_path, test)


def test_a_newer_order_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    async def test(units: Units, fetcher: ScriptedFetcher) -> None:
        first, second = asyncio.Event(), asyncio.Event()
        units.begin(PACK, ONE, first.set)
        await asyncio.sleep(0)
        units.begin(PACK, OTHER, second.set)
        await first.wait()
        fetcher.go.set()
        await second.wait()
        assert fetcher.ended == [(PACK, OTHER)]

    run(tmp_path, test)


@pytest.mark.parametrize(("error", "n_tries"), [(UnitsError("Nobody has it."), 2), (DiskFullError("Full."), 1)])
def test_what_nobody_gives_is_asked_for_again_and_a_full_disk_is_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: TpidError, n_tries: int
) -> None:
    monkeypatch.setattr(units_module, "AGAIN_S", 0.01)

    async def test(units: Units, fetcher: ScriptedFetcher) -> None:
        ended = asyncio.Event()
        fetcher.errors.append(error)
        fetcher.go.set()
        units.begin(PACK, ONE, ended.set)
        await ended.wait()
        assert len(fetcher.begun) == n_tries

    run(tmp_path, test)


def test_the_end_ends_what_was_begun(tmp_path: Path) -> None:
    async def test(units: Units, fetcher: ScriptedFetcher) -> None:
        ended = asyncio.Event()
        units.begin(PACK, ONE, ended.set)
        await asyncio.sleep(0)
        await units.close()
        assert ended.is_set()

    run(tmp_path, test)

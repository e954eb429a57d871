"""Devices of one home in one process give each other units over real TLS; some go, lie or have a full disk."""

import asyncio
import errno
import itertools
import shutil
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.paired_home import PairedHome
from tests.integration.stream_ends import within_a_minute
from tpid.cluster.home import Home
from tpid.cluster.roster.roster import revoke
from tpid.comm.dialling import dial_for_units
from tpid.comm.listener import Listener
from tpid.comm.messages import Hello
from tpid.comm.settings import CommSettings
from tpid.device import DeviceId, DeviceProfile, Role
from tpid.errors import DeviceLostError, DiskFullError, NotPairedError, TpidError, UnitsError
from tpid.pack.geometry import Block, Half, Share, UnitRange
from tpid.pack.holed import HoledPack
from tpid.pack.manifest import PackId, read_manifest
from tpid.pack.pieces import Piece, pieces_of, read_piece
from tpid.pack.presence import Presence
from tpid.pack.reader import Pack
from tpid.pack.unit_store import UnitStore
from tpid.transfer import fetching
from tpid.transfer.asking import AskingLine
from tpid.transfer.fetching import Fetcher
from tpid.transfer.giving import Giver, Held
from tpid.transfer.wire import Question, What, question_for

run = within_a_minute(asyncio.run)
SHARE = Share(UnitRange(1, 3), UnitRange(2, 7))
NAMES = {"desk": Role.USER, "nas": Role.HELPER, "pi": Role.HELPER}


@pytest.fixture(scope="module")
def pack(random_model: Callable[..., Path], pack_of: Callable[..., Pack]) -> Pack:
    """4 layers of 3 attention units and 40 FFN units or fewer."""
    return pack_of(random_model("llama", num_hidden_layers=4, intermediate_size=1280))


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[dict[str, Home]]:
    with PairedHome(NAMES) as paired:
        for name in NAMES:
            paired.furnish(name, tmp_path / name)
        yield {name: Home.load(tmp_path / name, name) for name in NAMES}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "NO_SOURCE_S", 0.2)
    monkeypatch.setattr(fetching, "TICK_S", 0.05)


class Source:
    """A device that has the pack, and gives of it until `stops_after` bytes."""

    def __init__(self, home: Home, pack: Pack | None, stops_after: int | None = None) -> None:
        self.home = home
        self.profile = profile_of(home, pack)
        self.giver = Giver(self._find, lambda member: member in home.members, lambda: False)
        self.listener: Listener
        self._pack = pack
        self._stops_after = stops_after

    async def listen(self) -> None:
        hello = Hello(cluster=self.home.fingerprint, profile=self.profile)
        self.listener = await Listener.listen(
            "127.0.0.1",
            0,
            hello=lambda: hello,
            accept=lambda _: None,
            on_connection=lambda _: None,
            settings=CommSettings(),
            trust=self.home,
            on_units=self.giver.serve,
        )

    async def stop(self) -> None:
        await self.listener.close()
        await self.giver.close()

    def _find(self, id: PackId) -> Held | None:
        if self._pack is None or id != self._pack.id:
            return None
        return self._pack, None


def profile_of(home: Home, pack: Pack | None) -> DeviceProfile:
    assert home.me is not None
    packs = (pack.id,) if pack is not None else ()
    me = home.me
    return DeviceProfile(home.id, me.name, me.role, "0.1.0", 8 << 30, 4 << 30, 1 << 40, 4, 1e9, "native", packs)


class Receiver:
    def __init__(self, home: Home, sources: list[Source], directory: Path) -> None:
        self.home = home
        self.sources = sources
        self.store = UnitStore(directory)
        self.fetcher = Fetcher(self.store, lambda: [source.profile for source in self.sources], self.dial)
        self.on_progress: Callable[[int], None] = lambda done: None
        self.progress: list[tuple[int, int]] = []

    async def dial(self, device: DeviceId) -> Any:
        source = next(source for source in self.sources if source.profile.id == device)
        return await dial_for_units([("127.0.0.1", source.listener.port)], self.home, device, CommSettings())

    async def complete(self, pack: PackId) -> HoledPack:
        def told(done: int, total: int) -> None:
            self.progress.append((done, total))
            self.on_progress(done)

        return await self.fetcher.complete(pack, SHARE, told)


def total_bytes(pack: Pack) -> int:
    return sum(len(read_piece(pack, piece)) for piece in pieces_of(pack.manifest, SHARE))


def check_whole(held: HoledPack, pack: Pack) -> None:
    for piece in pieces_of(pack.manifest, SHARE):
        assert read_piece(held.pack, piece).tobytes() == read_piece(pack, piece).tobytes()
    assert UnitStore(held.pack.directory.parent.parent).held()[0].ffn == (2, 7)


def scenario(
    homes: dict[str, Home],
    sources: list[Source],
    tmp_path: Path,
    test: Callable[[Receiver], Coroutine[Any, Any, None]],
) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            for source in sources:
                await source.listen()
                stack.push_async_callback(source.stop)
            await test(Receiver(homes["pi"], sources, tmp_path))

    run(main())


def test_several_sources_give_at_once_and_each_byte_comes_once(
    homes: dict[str, Home], pack: Pack, tmp_path: Path
) -> None:
    sources = [Source(homes["desk"], pack), Source(homes["nas"], pack)]

    async def test(receiver: Receiver) -> None:
        held = await receiver.complete(pack.id)
        check_whole(held, pack)
        assert receiver.progress[-1] == (total_bytes(pack), total_bytes(pack))
        assert receiver.fetcher.fetching is None
        given = [source.giver.given_bytes for source in sources]
        assert min(given) > 0
        maps = 2 * len(Presence.whole(pack.manifest).encode())
        assert total_bytes(pack) <= sum(given) <= total_bytes(pack) + len(read_manifest(pack.directory)) + maps
        await receiver.complete(pack.id)
        assert [source.giver.given_bytes for source in sources] == given

    scenario(homes, sources, tmp_path, test)


def test_a_source_that_begins_and_ends_to_compute_goes_on_giving(
    homes: dict[str, Home], pack: Pack, tmp_path: Path
) -> None:
    source = Source(homes["desk"], pack)
    turns = itertools.cycle([True, True, False])
    source.giver = Giver(source._find, lambda _: True, lambda: next(turns))

    async def test(receiver: Receiver) -> None:
        check_whole(await receiver.complete(pack.id), pack)
        assert receiver.fetcher.avoided == {}

    scenario(homes, [source], tmp_path, test)


def test_where_a_source_dies_half_way_another_gives_the_rest(
    homes: dict[str, Home], pack: Pack, tmp_path: Path
) -> None:
    desk, nas = Source(homes["desk"], pack), Source(homes["nas"], pack)

    async def test(receiver: Receiver) -> None:
        receiver.sources = [desk]
        stopping: list[asyncio.Task[None]] = []

        def half_way(done: int) -> None:
            if done > total_bytes(pack) // 2 and not stopping:
                receiver.sources = [nas]
                stopping.append(asyncio.create_task(desk.stop()))

        receiver.on_progress = half_way
        check_whole(await receiver.complete(pack.id), pack)
        assert stopping
        assert nas.giver.given_bytes > 0

    scenario(homes, [desk, nas], tmp_path, test)


@pytest.mark.usefixtures("impatient")
def test_what_came_before_all_sources_died_is_not_asked_for_again(
    homes: dict[str, Home], pack: Pack, tmp_path: Path
) -> None:
    desk, nas = Source(homes["desk"], pack), Source(homes["nas"], pack)

    async def test(receiver: Receiver) -> None:
        receiver.sources = [desk]
        stopping: list[asyncio.Task[None]] = []

        def half_way(done: int) -> None:
            if done > total_bytes(pack) // 2 and not stopping:
                receiver.sources = []
                stopping.append(asyncio.create_task(desk.stop()))

        receiver.on_progress = half_way
        with pytest.raises(UnitsError, match="No device that is connected gives the"):
            await receiver.complete(pack.id)
        again = Receiver(homes["pi"], [nas], tmp_path)
        check_whole(await again.complete(pack.id), pack)
        assert again.progress[0][1] < total_bytes(pack) // 2

    scenario(homes, [desk, nas], tmp_path, test)


@pytest.fixture
def damaged(pack: Pack, tmp_path: Path, pack_of: Callable[..., Pack]) -> Pack:
    """The same pack, with a bit turned over in unit 3 of the FFN of layer 1."""
    directory = tmp_path / "damaged"
    shutil.copytree(pack.directory, directory)
    copy = Pack(directory)
    where = copy.block_range(Block(1, Half.FFN), UnitRange(3, 4))
    data = bytearray(where.path.read_bytes())
    data[where.offset + 99] ^= 4
    where.path.write_bytes(data)
    return copy


def test_a_source_that_sends_a_damaged_unit_is_named_and_another_gives_it(
    homes: dict[str, Home], pack: Pack, damaged: Pack, tmp_path: Path
) -> None:
    desk, nas = Source(homes["desk"], damaged), Source(homes["nas"], pack)

    async def test(receiver: Receiver) -> None:
        receiver.sources = [desk]

        def seen(done: int) -> None:
            receiver.sources = [desk, nas]

        receiver.on_progress = seen
        check_whole(await receiver.complete(pack.id), pack)
        assert receiver.fetcher.avoided == {"desk": "sent a damaged unit 3 of ffn of layer 1"}

    scenario(homes, [desk, nas], tmp_path, test)


@pytest.mark.usefixtures("impatient")
def test_where_only_a_damaged_source_is_left_the_error_names_it(
    homes: dict[str, Home], pack: Pack, damaged: Pack, tmp_path: Path
) -> None:
    async def test(receiver: Receiver) -> None:
        with pytest.raises(UnitsError, match="desk: sent a damaged unit 3 of ffn of layer 1"):
            await receiver.complete(pack.id)
        held = receiver.store.find(pack.id)
        assert held is not None
        assert Piece(1, Half.FFN, 3) in held.missing(SHARE)

    scenario(homes, [Source(homes["desk"], damaged)], tmp_path, test)


@pytest.mark.usefixtures("impatient")
def test_a_source_that_has_nothing_of_it_is_not_waited_for(homes: dict[str, Home], pack: Pack, tmp_path: Path) -> None:
    source = Source(homes["desk"], None)
    source.profile = replace(source.profile, packs=(pack.id,))  # which it has not

    async def test(receiver: Receiver) -> None:
        with pytest.raises(UnitsError, match="No device that is connected"):
            await receiver.complete(pack.id)

    scenario(homes, [source], tmp_path, test)


def test_a_full_disk_is_found_before_anything_is_asked_for(
    homes: dict[str, Home], pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UnitStore, "free_bytes", lambda self: 1000)

    async def test(receiver: Receiver) -> None:
        with pytest.raises(DiskFullError, match="more on the disk of"):
            await receiver.complete(pack.id)
        assert receiver.progress == []

    scenario(homes, [Source(homes["desk"], pack)], tmp_path, test)


def test_a_disk_that_becomes_full_meanwhile_ends_it_and_what_came_stays(
    homes: dict[str, Home], pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = HoledPack.write
    n_written = 0

    def until_full(self: HoledPack, piece: Piece, data: bytes) -> None:
        nonlocal n_written
        n_written += 1
        if n_written > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, piece, data)

    monkeypatch.setattr(HoledPack, "write", until_full)

    async def test(receiver: Receiver) -> None:
        with pytest.raises(DiskFullError, match="became full"):
            await receiver.complete(pack.id)
        held = UnitStore(tmp_path).find(pack.id)
        assert held is not None
        assert len(held.missing(SHARE)) == len(list(pieces_of(pack.manifest, SHARE))) - 6

    scenario(homes, [Source(homes["desk"], pack)], tmp_path, test)


def test_what_is_none_of_its_business_is_not_given(homes: dict[str, Home], pack: Pack, tmp_path: Path) -> None:
    async def test(receiver: Receiver) -> None:
        line = AskingLine(await receiver.dial(homes["desk"].id), "desk")
        for question in (
            Question(PackId("ab" * 32), What.MANIFEST),
            question_for(pack.id, Piece(99, Half.FFN, 0)),
            question_for(pack.id, Piece(0, Half.FFN, 4000)),
            Question(pack.id, What.VECTORS, 2**32 - 1),
        ):
            assert await line.ask(question, 1 << 20) is None
        assert await line.ask(question_for(pack.id, Piece(0, None)), 1 << 20) is not None
        unknown = replace(question_for(pack.id, Piece(0, None)), what=5)  # type: ignore[arg-type]
        with pytest.raises(DeviceLostError):
            await line.ask(unknown, 1 << 20)

    scenario(homes, [Source(homes["desk"], pack)], tmp_path, test)


def test_who_is_put_out_gets_nothing_more(homes: dict[str, Home], pack: Pack, tmp_path: Path) -> None:
    desk = homes["desk"]

    async def test(receiver: Receiver) -> None:
        line = AskingLine(await receiver.dial(desk.id), "desk")
        question = question_for(pack.id, Piece(0, None))
        assert await line.ask(question, 1 << 20) is not None
        await desk.change(lambda roster: revoke(roster, desk.identity, homes["pi"].id))
        answers = [line.ask(question, 1 << 20) for _ in range(2)]
        with pytest.raises(TpidError):
            await asyncio.gather(*answers)
        with pytest.raises(NotPairedError):
            await receiver.dial(desk.id)

    scenario(homes, [Source(desk, pack)], tmp_path, test)

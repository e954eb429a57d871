"""A share's weights from a pack: what stays, what streams, and that both are the pack's bytes."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from tpid.device import DeviceId, DeviceProfile, Role
from tpid.engine.cycle import HEAD_SLICE_BYTES, Part, cycle_of, cycle_within
from tpid.errors import LoadError, MemoryPlanError
from tpid.memory.residency import Item, least_bytes
from tpid.memory.weights import LoadProgress, Stored, Weights
from tpid.pack.geometry import Block, Half, Share, UnitRange
from tpid.pack.reader import Pack
from tpid.pack.tiles import U8

WHOLE = Share(UnitRange(0, 3), UnitRange(0, 7))
PLENTY = 1 << 40


@pytest.fixture
def pack(random_model: Callable[..., Path], pack_of: Callable[..., Pack]) -> Pack:
    """3 layers of 3 attention units and 7 FFN units."""
    return pack_of(random_model("llama"))


def keep(data: U8) -> U8:
    return data


def stored(pack: Pack, share: Share, prepare: Callable[[U8], U8] = keep, *, coordinator: bool = True) -> list[Stored]:
    parts = cycle_of(pack, share, coordinator=coordinator)
    return [Stored(str(part), part.where(pack), prepare, Item(part.packed_bytes, 1e-3)) for part in parts]


def expected(pack: Pack, part: Part) -> U8:
    if part.block is not None:
        path, name = pack.directory / f"layers/{part.block.layer:03d}.safetensors", f"{part.block.half}.units"
    else:
        path, name = pack.head_range().path, "head.units" if pack.manifest.head is not None else "embed.units"
    with safe_open(path, "numpy") as file:
        units: U8 = file.get_tensor(name)[part.units.start : part.units.stop]
    return units.reshape(-1)


async def load(items: list[Stored], budget_bytes: int, progress: LoadProgress = lambda done, total: None) -> Weights:
    return await Weights.load(items, budget_bytes, 1e9, progress)


async def walk(weights: Weights, n_items: int) -> list[U8]:
    found = []
    for index in range(n_items):
        async with weights.lease(index) as prepare:
            found.append(prepare().copy())
    return found


@pytest.mark.parametrize("share", [
    WHOLE,
    Share(UnitRange(0, 1), UnitRange(0, 1)),
    Share(UnitRange(1, 2), UnitRange(3, 6)),
    Share(UnitRange(0, 0), UnitRange(5, 7)),
    Share(UnitRange(3, 3), UnitRange(7, 7)),
])  # fmt: skip
@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.7, 1.0])
def test_a_share_is_read_as_it_lies_in_the_pack(pack: Pack, share: Share, fraction: float) -> None:
    parts = cycle_of(pack, share, coordinator=True)
    items = stored(pack, share)
    total = sum(part.packed_bytes for part in parts)
    budget = max(int(fraction * total), least_bytes([item.item for item in items]))

    async def main() -> None:
        weights = await load(items, budget)
        try:
            assert weights.plan.memory_bytes <= budget
            assert weights.streams == (weights.plan.streamed_bytes > 0)
            assert fraction < 1 or not weights.streams
            for _ in range(3):
                for part, found in zip(parts, await walk(weights, len(parts)), strict=True):
                    np.testing.assert_array_equal(found, expected(pack, part), str(part))
            assert weights.traffic.read_bytes >= 3 * weights.plan.streamed_bytes
        finally:
            weights.close()

    asyncio.run(main())


def test_progress_counts_what_stays(pack: Pack) -> None:
    progress: list[tuple[int, int]] = []
    items = stored(pack, WHOLE)

    async def main() -> None:
        weights = await load(items, PLENTY, lambda done, total: progress.append((done, total)))
        weights.close()

    asyncio.run(main())
    total = sum(item.where.size_bytes for item in items)
    assert {entry[1] for entry in progress} == {total}
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)
    assert progress[-1] == (total, total)


def test_with_everything_resident_nothing_is_read_in_a_pass(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    items = stored(pack, WHOLE)

    async def main() -> None:
        weights = await load(items, PLENTY)
        monkeypatch.setattr(os, "preadv", None)
        await walk(weights, len(items))
        assert (weights.traffic.read_bytes, weights.traffic.stall_s) == (0, 0.0)
        weights.close()

    asyncio.run(main())


def test_too_small_a_budget_is_refused_before_anything_is_read(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    items = stored(pack, WHOLE)
    monkeypatch.setattr(os, "preadv", None)
    with pytest.raises(MemoryPlanError, match="kB at least"):
        asyncio.run(load(items, least_bytes([item.item for item in items]) - 1))


def test_a_file_that_is_cut_is_named(pack: Pack) -> None:
    items = stored(pack, WHOLE)
    os.truncate(pack.directory / "layers" / "002.safetensors", 8192)
    with pytest.raises(LoadError, match=r"layers/002\.safetensors ends before byte \d+, within units .* of layer 2"):
        asyncio.run(load(items, PLENTY))


def test_what_prepare_raises_comes_through(pack: Pack) -> None:
    def fail(data: U8) -> U8:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(load(stored(pack, WHOLE, fail), PLENTY))


def test_progress_may_stop_the_load(pack: Pack) -> None:
    def stop(done: int, total: int) -> None:
        raise LoadError("The plan was replaced while it was loaded.")

    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(LoadError, match="replaced"):
        asyncio.run(load(stored(pack, WHOLE), PLENTY, stop))
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize(
    ("attn", "ffn", "message"),
    [
        ((0, 4), (0, 7), "units 0 to 4 of layer 0 attn, but .* has 3"),
        ((0, 3), (0, 8), "units 0 to 8 of layer 0 ffn, but .* has 7"),
        ((0, 3), (10**12, 10**13), "of layer 0 ffn"),
        ((-1, 2), (0, 7), "units -1 to 2 of layer 0 attn"),
        ((2, 1), (0, 7), "units 2 to 1 of layer 0 attn"),
    ],
)
def test_a_share_beyond_the_model_is_refused(
    pack: Pack, attn: tuple[int, int], ffn: tuple[int, int], message: str
) -> None:
    with pytest.raises(LoadError, match=message) as caught:
        cycle_of(pack, Share(UnitRange(*attn), UnitRange(*ffn)), coordinator=False)
    assert caught.value.hint is not None


def profile_of(backend: str) -> DeviceProfile:
    return DeviceProfile(
        id=DeviceId("0" * 64), name="a", role=Role.USER, version="0", ram_bytes=0, budget_bytes=0, disk_free_bytes=0,
        threads=1, read_bytes_s=1e9, backend=backend,
    )  # fmt: skip


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_the_head_comes_in_large_slices_where_nothing_streams(pack: Pack, backend: str) -> None:
    share, device = Share(UnitRange(0, 1), UnitRange(0, 1)), profile_of(backend)
    small = cycle_of(pack, share, coordinator=True)
    room = sum(part.item(device).held_bytes for part in small)
    assert cycle_within(pack, share, device, room - 1, coordinator=True) == small
    large = cycle_within(pack, share, device, room, coordinator=True)
    assert sum(part.item(device).held_bytes for part in large) == room
    (head,) = [part for part in large if part.block is None]
    assert head.packed_bytes == pack.manifest.head_geometry.size_bytes <= HEAD_SLICE_BYTES
    assert [part for part in large if part.block is not None] == [part for part in small if part.block is not None]
    assert len(small) > len(large)


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_the_cycle_is_the_blocks_and_then_the_whole_head(pack: Pack, backend: str) -> None:
    share = Share(UnitRange(0, 1), UnitRange(0, 2))
    parts = cycle_of(pack, share, coordinator=True)
    blocks = [part for part in parts if part.block is not None]
    head = parts[len(blocks) :]
    assert [part.block for part in blocks] == pack.manifest.blocks()
    geometry = pack.manifest.head_geometry
    assert [part.units.start for part in head] == [0, *(part.units.stop for part in head[:-1])]
    assert head[-1].units.stop == geometry.n_units
    assert sum(part.weights for part in head) == pack.spec.vocab_size * pack.spec.hidden_size
    smallest = min(part.packed_bytes for part in blocks)
    assert all(part.packed_bytes <= max(smallest, geometry.stride_bytes) for part in head)

    profile = profile_of(backend)
    item = blocks[0].item(profile)
    assert item.packed_bytes == pack.geometry(Block(0, Half.ATTN)).stride_bytes
    assert item.held_bytes == (item.packed_bytes if backend == "native" else 4 * blocks[0].weights)
    assert item.compute_s == pytest.approx(item.held_bytes / 1e9)

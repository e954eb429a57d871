import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from tpid.errors import LoadError, PackError
from tpid.memory.resident import ResidentBlocks, page_aligned, read_into
from tpid.pack.geometry import Block, Share, UnitRange
from tpid.pack.reader import ByteRange, Pack
from tpid.pack.tiles import U8

WHOLE = Share(UnitRange(0, 3), UnitRange(0, 7))


@pytest.fixture
def pack(random_model: Callable[..., Path], pack_of: Callable[..., Pack]) -> Pack:
    """3 layers of 3 attention units and 7 FFN units."""
    return pack_of(random_model("llama"))


def keep(block: Block, units: U8) -> U8:
    return units.copy()


def load(pack: Pack, share: Share, prepare: Callable[[Block, U8], U8] = keep) -> ResidentBlocks[U8]:
    return asyncio.run(ResidentBlocks.load(pack, share, prepare))


@pytest.mark.parametrize(
    ("attn", "ffn"),
    [((0, 3), (0, 7)), ((0, 1), (0, 1)), ((1, 2), (3, 6)), ((2, 3), (6, 7)), ((0, 0), (5, 7)), ((3, 3), (7, 7))],
)
def test_a_share_is_read_as_it_lies_in_the_pack(pack: Pack, attn: tuple[int, int], ffn: tuple[int, int]) -> None:
    share = Share(UnitRange(*attn), UnitRange(*ffn))
    progress: list[tuple[int, int]] = []
    blocks = asyncio.run(ResidentBlocks.load(pack, share, keep, lambda done, total: progress.append((done, total))))
    expected_bytes = 0
    for block in pack.manifest.blocks():
        units = share.of(block.half)
        with safe_open(pack.directory / f"layers/{block.layer:03d}.safetensors", "numpy") as file:
            expected = file.get_tensor(f"{block.half}.units")[units.start : units.stop]
        np.testing.assert_array_equal(blocks.get(block), expected)
        expected_bytes += expected.nbytes
    assert blocks.read_bytes == expected_bytes
    assert [total for _, total in progress] == [expected_bytes] * 6
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)
    assert progress[-1][0] == expected_bytes


def test_blocks_are_prepared_in_the_order_of_a_pass_out_of_one_aligned_buffer(pack: Pack) -> None:
    seen = []

    def prepare(block: Block, units: U8) -> U8:
        seen.append((block, units.ctypes.data))
        return units.copy()

    load(pack, WHOLE, prepare)
    assert [block for block, _ in seen] == pack.manifest.blocks()
    assert len({address for _, address in seen}) == 1
    assert seen[0][1] % 4096 == 0


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
def test_a_share_beyond_the_model_is_refused_before_memory_is_taken(
    pack: Pack, attn: tuple[int, int], ffn: tuple[int, int], message: str
) -> None:
    with pytest.raises(LoadError, match=message) as caught:
        load(pack, Share(UnitRange(*attn), UnitRange(*ffn)))
    assert caught.value.hint is not None


def test_a_file_that_is_cut_before_is_named(pack: Pack) -> None:
    path = pack.directory / "layers" / "001.safetensors"
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(PackError, match=r"layers/001\.safetensors ends 1 bytes too early"):
        load(pack, WHOLE)


def test_a_file_that_is_cut_meanwhile_is_named(pack: Pack) -> None:
    path = pack.directory / "layers" / "002.safetensors"

    def cut(block: Block, units: U8) -> U8:
        os.truncate(path, 8192)
        return units.copy()

    with pytest.raises(LoadError, match=r"layers/002\.safetensors ends \d+ bytes before byte \d+") as caught:
        load(pack, WHOLE, cut)
    assert caught.value.hint == "Import the model again."


def test_a_file_that_vanishes_meanwhile_is_named(pack: Pack) -> None:
    path = pack.directory / "layers" / "002.safetensors"

    def remove(block: Block, units: U8) -> U8:
        path.unlink(missing_ok=True)
        return units.copy()

    with pytest.raises(LoadError, match=r"layers/002\.safetensors cannot be read at byte \d+: No such file"):
        load(pack, WHOLE, remove)


def test_what_prepare_raises_comes_through(pack: Pack) -> None:
    def fail(block: Block, units: U8) -> U8:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        load(pack, WHOLE, fail)


def test_progress_may_stop_the_load(pack: Pack) -> None:
    def stop(done: int, total: int) -> None:
        raise LoadError("The plan was replaced while it was loaded.")

    with pytest.raises(LoadError, match="replaced"):
        asyncio.run(ResidentBlocks.load(pack, WHOLE, keep, stop))


@pytest.mark.parametrize(("offset", "size_bytes"), [(0, 10_000), (0, 0), (1, 1), (4096, 5904), (9_999, 1)])
def test_a_range_is_read_to_the_byte(tmp_path: Path, offset: int, size_bytes: int) -> None:
    content = np.random.default_rng(1).integers(0, 256, 10_000, np.uint8)
    path = tmp_path / "file"
    path.write_bytes(content.tobytes())
    out = page_aligned(size_bytes)
    asyncio.run(read_into(ByteRange(path, offset, size_bytes), out))
    np.testing.assert_array_equal(out, content[offset : offset + size_bytes])


def test_a_range_that_the_file_does_not_have_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    with pytest.raises(LoadError, match=r"file ends 20 bytes before byte 120"):
        asyncio.run(read_into(ByteRange(path, 50, 70), page_aligned(70)))
    with pytest.raises(LoadError, match=r"cannot be read at byte 0: Is a directory"):
        asyncio.run(read_into(ByteRange(tmp_path, 0, 1), page_aligned(1)))


def test_a_read_error_in_the_middle_is_named_with_its_place() -> None:
    """The memory of a process has no page 0: the kernel answers EIO."""
    with pytest.raises(LoadError, match=r"/proc/self/mem cannot be read at byte 0: Input/output error"):
        asyncio.run(read_into(ByteRange(Path("/proc/self/mem"), 0, 8), page_aligned(8)))


@pytest.mark.parametrize("size_bytes", [1, 4096, 100_001])
def test_buffers_start_at_a_page(size_bytes: int) -> None:
    buffers = [page_aligned(size_bytes) for _ in range(5)]
    assert all(buffer.ctypes.data % 4096 == 0 for buffer in buffers)
    assert {buffer.size for buffer in buffers} == {size_bytes}

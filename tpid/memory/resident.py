"""Blocks that stay in memory: a rank's whole share, read once when the plan is loaded."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

import aiofiles
import numpy as np

from tpid.errors import LoadError
from tpid.pack.geometry import ALIGN_BYTES, Block, Share
from tpid.pack.reader import ByteRange, Pack
from tpid.pack.tiles import U8

Prepared = TypeVar("Prepared")
Prepare = Callable[[Block, U8], Prepared]  # gets units [n, stride] uint8 that it must not keep
LoadProgress = Callable[[int, int], None]  # bytes read, bytes in all


class ResidentBlocks(Generic[Prepared]):
    """Every block of a share, prepared for its backend."""

    def __init__(self, blocks: dict[Block, Prepared], read_bytes: int) -> None:
        self._blocks = blocks
        self.read_bytes = read_bytes

    def get(self, block: Block) -> Prepared:
        return self._blocks[block]

    @classmethod
    async def load(
        cls,
        pack: Pack,
        share: Share,
        prepare: Prepare[Prepared],
        progress: LoadProgress = lambda done, total: None,
    ) -> "ResidentBlocks[Prepared]":
        """Read the share block by block into one buffer and prepare each in a thread.

        Raises LoadError, or PackError where a file of the pack is missing or not what it should be.
        """
        blocks = pack.manifest.blocks()
        for block in blocks:
            _check_share(pack, block, share)
        ranges = {block: pack.block_range(block, share.of(block.half)) for block in blocks}
        total = sum(where.size_bytes for where in ranges.values())
        buffer = page_aligned(max(where.size_bytes for where in ranges.values()))
        prepared: dict[Block, Prepared] = {}
        done = 0
        for block, where in ranges.items():
            data = buffer[: where.size_bytes]
            await read_into(where, data)
            units = data.reshape(len(share.of(block.half)), pack.geometry(block).stride_bytes)
            prepared[block] = await asyncio.to_thread(prepare, block, units)
            done += where.size_bytes
            progress(done, total)
        return cls(prepared, done)


def _check_share(pack: Pack, block: Block, share: Share) -> None:
    """A share comes from another device: one beyond the block would read what lies behind it."""
    units, n_units = share.of(block.half), pack.geometry(block).n_units
    if not 0 <= units.start <= units.stop <= n_units:
        raise LoadError(
            f"The plan asks for units {units.start} to {units.stop} of {block}, but {pack.directory} has {n_units}.",
            hint="Import the same model on all devices.",
        )


async def read_into(where: ByteRange, out: U8) -> None:
    """Fill `out` [size_bytes] uint8 from the file. Raises LoadError with file, place and reason."""
    view, done = memoryview(out), 0
    try:
        async with aiofiles.open(where.path, "rb", buffering=0) as file:
            await file.seek(where.offset)
            while done < where.size_bytes:
                n = await file.readinto(view[done:])
                if not n:
                    raise LoadError(
                        f"{where.path} ends {where.size_bytes - done} bytes before byte "
                        f"{where.offset + where.size_bytes}.",
                        hint="Import the model again.",
                    )
                done += n
    except OSError as error:
        raise LoadError(
            f"{where.path} cannot be read at byte {where.offset + done}: {error.strerror}.",
            hint="Check the disk, or import the model again.",
        ) from error


def page_aligned(size_bytes: int) -> U8:
    """[size_bytes] uint8 that starts at a multiple of 4096, as direct I/O asks."""
    raw = np.empty(size_bytes + ALIGN_BYTES, np.uint8)
    start = -raw.ctypes.data % ALIGN_BYTES
    return raw[start : start + size_bytes]

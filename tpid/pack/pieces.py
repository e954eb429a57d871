"""The pieces that a share is made of: what one device asks another for, and what a pack with holes has or lacks."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tpid.model.weights import F32
from tpid.pack.geometry import Block, Half, Share, UnitRange
from tpid.pack.manifest import Manifest
from tpid.pack.reader import Pack, read_range
from tpid.pack.tiles import U8


@dataclass(frozen=True, slots=True)
class Piece:
    """One unit of a block, or a layer's norms and biases: what has a digest of its own."""

    layer: int
    half: Half | None  # None: norms and biases
    unit: int = 0

    def __str__(self) -> str:
        what = f"unit {self.unit} of {self.half}" if self.half is not None else "norms and biases"
        return f"{what} of layer {self.layer}"


def pieces_of(manifest: Manifest, share: Share) -> Iterator[Piece]:
    """All that a worker with this share reads, in the order of a pass."""
    for layer in range(manifest.spec.n_layers):
        yield Piece(layer, None)
        for half in Half:
            units = share.of(half)
            for unit in range(units.start, units.stop):
                yield Piece(layer, half, unit)


def is_piece(manifest: Manifest, piece: Piece) -> bool:
    """Whether the pack has such a piece at all."""
    if not 0 <= piece.layer < manifest.spec.n_layers:
        return False
    n_units = manifest.geometry(Block(piece.layer, piece.half)).n_units if piece.half is not None else 1
    return 0 <= piece.unit < n_units


def piece_bytes(pack: Pack, piece: Piece) -> int:
    if piece.half is None:
        return 4 * sum(pack.layer_layout(piece.layer).vectors.values())
    return pack.geometry(Block(piece.layer, piece.half)).stride_bytes


def piece_digest(manifest: Manifest, piece: Piece) -> str:
    """SHA-256 of the piece, as `model.json` has it."""
    if piece.half is None:
        return manifest.layers[piece.layer].vectors
    return manifest.entry(Block(piece.layer, piece.half)).digests[piece.unit]


def read_piece(pack: Pack, piece: Piece) -> U8:
    """As it stands in the file; norms and biases one behind the other, by their names. Raises PackError."""
    if piece.half is None:
        vectors = pack.vectors(piece.layer)
        return np.concatenate([vectors[name] for name in sorted(vectors)]).view(np.uint8)
    units = UnitRange(piece.unit, piece.unit + 1)
    return read_range(pack.block_range(Block(piece.layer, piece.half), units))


def split_vectors(pack: Pack, layer: int, data: bytes | bytearray | memoryview) -> dict[str, F32]:
    """Norms and biases of a layer from the piece that holds them all."""
    values = np.frombuffer(data, np.float32)
    vectors: dict[str, F32] = {}
    start = 0
    for name, size in sorted(pack.layer_layout(layer).vectors.items()):
        vectors[name] = values[start : start + size]
        start += size
    return vectors

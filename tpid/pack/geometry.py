"""Where each weight of a model lies: units, tiles and strides. Numbers only, no I/O.

A unit is the smallest piece of a block that a rank can be given: one KV-head group
(its Q, K, V rows and O columns), or one slice of FFN columns (gate and up rows, down
columns). All its bytes lie together, so that a share is one contiguous byte range.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from tpid.model.spec import ModelSpec
from tpid.model.weights import CODINGS, GROUP, Coding, Format, Scales

TILE_ROWS = 8
TILE_COLUMNS = GROUP
SUPER_TILES = 8  # of a super-block of 256 inputs


def _coded_bytes(coding: Coding) -> int:
    """Of a tile: each bit of the codes is 32 bytes, and the scales' own sizes."""
    of_scales = {
        Scales.HALVES: 32 if coding.minimum else 16,
        Scales.SIXES: 12,
        Scales.NIBBLES: 16,
        Scales.BYTES: 8 * coding.per_group,
        Scales.EXPONENTS: 8,
    }
    return of_scales[coding.scales] + 32 * (coding.low_bits + coding.high_bits)


TILE_BYTES: Mapping[Format, int] = {
    Format.W4: 160,
    Format.W4S: 144,
    Format.W8: 272,
    Format.F16: 512,
    Format.BF16: 512,
    **{format: _coded_bytes(coding) for format, coding in CODINGS.items()},
}
FACTOR_BYTES: Mapping[Format, int] = {
    format: 16 * (1 + coding.minimum) for format, coding in CODINGS.items() if coding.super_block
}

ALIGN_BYTES = 4096  # what direct I/O asks of offsets and lengths
VOCAB_UNIT_ROWS = 512  # rows of embedding or head in a unit: about 2.6 MB in w4 at hidden 8192
MIN_FFN_UNITS = 40  # as few as this still divide FFN work to within 2.5 % of a rank's due


def run_tiles(n_tiles: int) -> int:
    """Tiles that share their factors, in a band of `n_tiles`: a super-block, or as much of it as no unit's edge cuts.

    Units begin at multiples of their own columns, so what divides both these and 256 is cut by neither.
    """
    return math.gcd(n_tiles, SUPER_TILES)


def band_bytes(format: Format, n_tiles: int) -> int:
    """Of 8 rows."""
    return n_tiles * TILE_BYTES[format] + n_tiles // run_tiles(n_tiles) * FACTOR_BYTES.get(format, 0)


class Half(StrEnum):
    """A decoder layer is two blocks; after each of them the ranks meet in an allreduce."""

    ATTN = "attn"
    FFN = "ffn"


@dataclass(frozen=True, slots=True)
class Block:
    layer: int
    half: Half

    def __str__(self) -> str:
        return f"layer {self.layer} {self.half}"


@dataclass(frozen=True, slots=True)
class UnitRange:
    """Units start…stop of a block; empty where a rank has no part in it."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Share:
    """What one rank computes, the same in every layer."""

    attn: UnitRange
    ffn: UnitRange

    def of(self, half: Half) -> UnitRange:
        return self.attn if half is Half.ATTN else self.ffn


@dataclass(frozen=True, slots=True)
class MatrixGeometry:
    """One matrix inside a unit: bands of 8 rows, each a row of 8 x 32 tiles."""

    name: str
    rows: int
    columns: int
    format: Format
    offset_bytes: int

    @property
    def bands(self) -> int:
        return -(-self.rows // TILE_ROWS)

    @property
    def tiles_per_band(self) -> int:
        return -(-self.columns // TILE_COLUMNS)

    @property
    def band_bytes(self) -> int:
        return band_bytes(self.format, self.tiles_per_band)

    @property
    def size_bytes(self) -> int:
        return self.bands * self.band_bytes


@dataclass(frozen=True, slots=True)
class UnitGeometry:
    """All units of a block are alike; `stride_bytes` apart, a multiple of 4096."""

    n_units: int
    matrices: tuple[MatrixGeometry, ...]
    stride_bytes: int

    @property
    def size_bytes(self) -> int:
        return self.n_units * self.stride_bytes

    @property
    def weights_per_unit(self) -> int:
        return sum(matrix.rows * matrix.columns for matrix in self.matrices)

    def matrix(self, name: str) -> MatrixGeometry:
        return next(matrix for matrix in self.matrices if matrix.name == name)


ATTN_MATRICES = ("q", "k", "v", "o")
FFN_MATRICES = ("gate", "up", "down")
COLUMN_SPLIT = frozenset({"o", "down"})  # units take columns of these, rows of the others


@lru_cache(maxsize=64)  # asked for with every block of a pass
def ffn_unit_columns(ffn_size: int) -> int:
    """Width of an FFN unit: a multiple of 32 that divides the FFN into 40 units or more.

    The widest of those that cut fewest super-blocks of 256. Wide units cost less padding and fewer passes over the
    output; a narrow FFN gets units of 32.
    """
    slices = -(-ffn_size // TILE_COLUMNS)
    possible = [k for k in range(1, slices + 1) if slices % k == 0 and slices // k >= MIN_FFN_UNITS]
    return max(possible, key=lambda k: (run_tiles(k), k), default=1) * TILE_COLUMNS


def attn_geometry(spec: ModelSpec, formats: Mapping[str, Format]) -> UnitGeometry:
    head_rows = spec.heads_per_group * spec.head_dim
    shapes = {
        "q": (head_rows, spec.hidden_size),
        "k": (spec.head_dim, spec.hidden_size),
        "v": (spec.head_dim, spec.hidden_size),
        "o": (spec.hidden_size, head_rows),
    }
    return _lay_out(spec.n_kv_heads, shapes, formats)


def ffn_geometry(spec: ModelSpec, formats: Mapping[str, Format]) -> UnitGeometry:
    """The last unit's rows beyond `ffn_size` are zeros, so its columns there add nothing, whatever they hold."""
    width = ffn_unit_columns(spec.ffn_size)
    shapes = {
        "gate": (width, spec.hidden_size),
        "up": (width, spec.hidden_size),
        "down": (spec.hidden_size, width),
    }
    return _lay_out(-(-spec.ffn_size // width), shapes, formats)


def block_geometry(spec: ModelSpec, half: Half, formats: Mapping[str, Format]) -> UnitGeometry:
    return attn_geometry(spec, formats) if half is Half.ATTN else ffn_geometry(spec, formats)


def vocab_geometry(spec: ModelSpec, format: Format) -> UnitGeometry:
    """The embedding or the head: units of 512 rows, the last one padded with zeros."""
    shapes = {"rows": (VOCAB_UNIT_ROWS, spec.hidden_size)}
    return _lay_out(-(-spec.vocab_size // VOCAB_UNIT_ROWS), shapes, {"rows": format})


def _lay_out(n_units: int, shapes: Mapping[str, tuple[int, int]], formats: Mapping[str, Format]) -> UnitGeometry:
    matrices: list[MatrixGeometry] = []
    offset = 0
    for name, (rows, columns) in shapes.items():
        matrices.append(MatrixGeometry(name, rows, columns, formats[name], offset))
        offset += matrices[-1].size_bytes
    stride = -(-offset // ALIGN_BYTES) * ALIGN_BYTES
    return UnitGeometry(n_units, tuple(matrices), stride)

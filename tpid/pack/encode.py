"""From a source's matrices to units: which format each takes, and its bytes in tile order."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from tpid.errors import ModelFileError, UnsupportedModelError
from tpid.model.finite import require_finite
from tpid.model.inventory import layer_matrix_shapes
from tpid.model.source import WeightSource
from tpid.model.spec import ModelSpec
from tpid.model.weights import GROUPED, Format, Matrix, convert
from tpid.pack.geometry import (
    ATTN_MATRICES,
    COLUMN_SPLIT,
    FFN_MATRICES,
    TILE_COLUMNS,
    TILE_ROWS,
    Half,
    MatrixGeometry,
    UnitGeometry,
    ffn_unit_columns,
)
from tpid.pack.tiles import U8, pack_tiles

CHUNK_WEIGHTS = 4 << 20  # converted at once: bounds temporary memory to about 50 MB
VOCAB_UNITS_AT_ONCE = 4

# All units of a block in order, some at a time, as arrays [n, stride] uint8 that are valid until the next is asked for;
# the mapping gives each matrix's name in the source.
UnitEncoder = Callable[[WeightSource, UnitGeometry, Mapping[str, str]], Iterator[U8]]


def block_formats(source: WeightSource, layer: int, half: Half, requested: Format | None) -> dict[str, Format]:
    """The format of each matrix of a block: as published where a pack holds it, or as requested.

    A unit's columns of `o` or `down` that cut through a group of 32 cannot stay grouped: they become f16.
    """
    formats = {}
    for name in ATTN_MATRICES if half is Half.ATTN else FFN_MATRICES:
        format = requested or source.natural_format(f"layers.{layer}.{name}")
        if name in COLUMN_SPLIT and format in GROUPED and _unit_columns(source.spec, half) % TILE_COLUMNS:
            format = Format.F16
        formats[name] = format
    return formats


def vocab_format(source: WeightSource, name: str, requested: Format | None) -> Format:
    """The format of `embed` or `head`; a request for 4 bits gives w8, for they cost most quality there."""
    return Format.W8 if requested in (Format.W4, Format.W4S) else requested or source.natural_format(name)


def encode_block(source: WeightSource, geometry: UnitGeometry, tensors: Mapping[str, str]) -> Iterator[U8]:
    """The UnitEncoder of an import: all at once where units take columns, so that each row is read only once."""
    step = geometry.n_units if COLUMN_SPLIT.intersection(tensors) else VOCAB_UNITS_AT_ONCE
    for start in range(0, geometry.n_units, step):
        yield encode_units(source, geometry, tensors, start, min(start + step, geometry.n_units))


def encode_units(source: WeightSource, geometry: UnitGeometry, tensors: Mapping[str, str], start: int, stop: int) -> U8:
    """Units start…stop of a block, [units, stride] uint8; `tensors` gives each matrix's name in the source.

    Raises ModelFileError, or UnsupportedModelError for weights that a format cannot hold.
    """
    out = np.zeros((stop - start, geometry.stride_bytes), np.uint8)
    for matrix in geometry.matrices:
        encode = _encode_columns if matrix.name in COLUMN_SPLIT else _encode_rows
        encode(out, source, tensors[matrix.name], matrix, start)
    return out


def _encode_rows(out: U8, source: WeightSource, tensor: str, geometry: MatrixGeometry, first_unit: int) -> None:
    total_rows, _ = _source_shape(source.spec, tensor)
    step = _chunk_rows(geometry.columns)
    for index, unit in enumerate(out):
        base = (first_unit + index) * geometry.rows
        end = min(base + geometry.rows, total_rows)
        for start in range(base, end, step):
            chunk = _converted(source, tensor, start, min(start + step, end), geometry.format)
            _place(unit, geometry, start - base, pack_tiles(chunk))


def _encode_columns(out: U8, source: WeightSource, tensor: str, geometry: MatrixGeometry, first_unit: int) -> None:
    _, total_columns = _source_shape(source.spec, tensor)
    step = _chunk_rows(total_columns)
    for start in range(0, geometry.rows, step):
        converted = _converted(source, tensor, start, min(start + step, geometry.rows), geometry.format)
        for index, unit in enumerate(out):
            left = (first_unit + index) * geometry.columns
            right = min(left + geometry.columns, converted.shape[1])
            _place(unit, geometry, start, pack_tiles(converted.columns(left, right)))


def _converted(source: WeightSource, tensor: str, start_row: int, stop_row: int, format: Format) -> Matrix:
    published = source.matrix(tensor, start_row, stop_row)
    with np.errstate(over="ignore", invalid="ignore"):
        converted = convert(published, format)
    if converted is not published:
        try:
            require_finite(converted, tensor, start_row)
        except ModelFileError as error:
            raise UnsupportedModelError(
                f"Matrix {tensor} has weights beyond what {format} can hold.", hint="Import it with --format bf16."
            ) from error
    return converted


def _place(unit: U8, geometry: MatrixGeometry, row: int, tiles: U8) -> None:
    at = geometry.offset_bytes + row // TILE_ROWS * geometry.band_bytes
    unit[at : at + tiles.size] = tiles


def _chunk_rows(columns: int) -> int:
    return max(CHUNK_WEIGHTS // columns // TILE_ROWS, 1) * TILE_ROWS


def _unit_columns(spec: ModelSpec, half: Half) -> int:
    return spec.heads_per_group * spec.head_dim if half is Half.ATTN else ffn_unit_columns(spec.ffn_size)


def _source_shape(spec: ModelSpec, tensor: str) -> tuple[int, int]:
    name = tensor.rpartition(".")[2]
    if name in ("embed", "head"):
        return spec.vocab_size, spec.hidden_size
    return layer_matrix_shapes(spec)[name]

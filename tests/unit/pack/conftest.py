"""A model that is made up in memory, in any mix of formats, and the way back from a pack to its matrices."""

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.matrices import random_matrix
from tpid.model.inventory import matrix_shapes, vector_shapes
from tpid.model.sampling_defaults import SamplingDefaults
from tpid.model.source import TokenizerFiles
from tpid.model.spec import Architecture, LayerSpec, ModelSpec, Rope
from tpid.model.weights import CODINGS, F32, GROUPED, Format, HalfMatrix, Matrix, W4Matrix, W4SMatrix, W8Matrix
from tpid.pack.geometry import COLUMN_SPLIT, Block, Half, UnitGeometry, UnitRange
from tpid.pack.reader import Pack, read_range
from tpid.pack.tiles import U8, unpack_tiles

SPEC = ModelSpec(
    architecture=Architecture.LLAMA,
    hidden_size=64,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    head_dim=16,
    ffn_size=72,  # the last of 3 FFN units is padded
    vocab_size=600,  # and so is the last of 2 units of the embedding
    context_tokens=128,
    norm_eps=1e-5,
    pattern=(LayerSpec(Rope(10000.0)),),
    tied_head=True,
)
TOKENIZER = TokenizerFiles(b'{"made": "up"}', "{{ messages }}", "<s>", "</s>", (2, 7))


class MadeUpSource:
    """Matrices are drawn in their natural format; a matrix whose columns are no groups of 32 is f16 all the same.

    `reads` lists the matrices that were asked for, in order.
    """

    def __init__(self, formats: Mapping[str, Format], default: Format, seed: int, **spec: Any) -> None:
        self.spec = replace(SPEC, **spec)
        self.fingerprint = f"{seed}"
        self.published_bytes = 0
        self.reads: list[str] = []
        self.files = TOKENIZER
        rng = np.random.default_rng(seed)
        self.matrices: dict[str, Matrix] = {}
        for name, shape in matrix_shapes(self.spec).items():
            format = formats.get(name.rpartition(".")[2], default)
            if shape[1] % 32 and format in GROUPED:
                format = Format.F16
            self.matrices[name] = _random_matrix(rng, (shape[0], shape[1]), format)
        self.vectors = {
            name: rng.normal(size=shape).astype(np.float32) for name, shape in vector_shapes(self.spec).items()
        }

    @property
    def notes(self) -> list[str]:
        return []

    def natural_format(self, name: str) -> Format:
        return self.matrices[name].format

    def matrix(self, name: str, start_row: int, stop_row: int) -> Matrix:
        self.reads.append(name)
        return self.matrices[name].rows(slice(start_row, stop_row))

    def vector(self, name: str) -> F32:
        return self.vectors[name]

    def tokenizer(self) -> TokenizerFiles:
        return self.files

    def sampling_defaults(self) -> SamplingDefaults:
        return SamplingDefaults(temperature=0.6, top_k=20)

    def close(self) -> None:
        return None


def _random_matrix(rng: np.random.Generator, shape: tuple[int, int], format: Format) -> Matrix:
    rows, columns = shape
    if format in CODINGS:
        return random_matrix(rng, rows, columns, format)
    groups = columns // 32
    scales = rng.normal(size=(rows, groups)).astype(np.float16)
    if format is Format.W4:
        quants = rng.integers(0, 16, (rows, groups, 32), np.uint8)
        return W4Matrix(quants, scales, rng.normal(size=(rows, groups)).astype(np.float16))
    if format is Format.W4S:
        return W4SMatrix(rng.integers(0, 16, (rows, groups, 32), np.uint8), scales)
    if format is Format.W8:
        return W8Matrix(rng.integers(-127, 128, (rows, groups, 32), np.int8), scales)
    values = rng.normal(size=shape).astype(np.float32)
    bits = values.astype(np.float16).view(np.uint16) if format is Format.F16 else values.view(np.uint32) >> 16
    return HalfMatrix(bits.astype(np.uint16), format)


@pytest.fixture(scope="session")
def source_of() -> Callable[..., MadeUpSource]:
    """`source_of(formats={"q": Format.W4, …}, default=Format.F16, seed=1, **spec)`"""

    def make(
        formats: Mapping[str, Format] | None = None, default: Format = Format.F16, seed: int = 1, **spec: Any
    ) -> MadeUpSource:
        return MadeUpSource(formats or {}, default, seed, **spec)

    return make


@pytest.fixture(scope="session")
def join_units() -> Callable[..., F32]:
    return _join_units


def _join_units(units: U8, geometry: UnitGeometry, name: str) -> F32:
    """One matrix of all units [n, stride], fp32, with the padding of its last unit."""
    matrix = geometry.matrix(name)
    parts = []
    for unit in units:
        tiles = unit[matrix.offset_bytes : matrix.offset_bytes + matrix.size_bytes]
        part = unpack_tiles(tiles, matrix.rows, matrix.columns, matrix.format)
        parts.append(part.dequantize()[:, : matrix.columns])
    return np.concatenate(parts, axis=1 if name in COLUMN_SPLIT else 0)


@pytest.fixture(scope="session")
def read_matrix() -> Callable[[Pack, str], F32]:
    """`read_matrix(pack, "layers.0.q")`: fp32, with the padding of its last unit."""

    def read(pack: Pack, name: str) -> F32:
        if name in ("embed", "head"):
            geometry = getattr(pack.manifest, f"{name}_geometry")
            where, matrix = pack.embed_range() if name == "embed" else pack.head_range(), "rows"
        else:
            _, layer, matrix = name.split(".")
            block = Block(int(layer), Half.ATTN if matrix in "qkvo" else Half.FFN)
            geometry = pack.geometry(block)
            where = pack.block_range(block, UnitRange(0, geometry.n_units))
        return _join_units(read_range(where).reshape(geometry.n_units, geometry.stride_bytes), geometry, matrix)

    return read


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 2 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)

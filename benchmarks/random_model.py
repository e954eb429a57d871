"""A model of random weights: a source for the import, and a way to write its units as fast as a disk takes them.

Weights are drawn once for each format and number of inputs, some 16 million of them; every matrix is a run of these
tiles from another start. They have mean 0 and the variance 1 / inputs, so that what a block adds to the residual
stream is of the size of one, and stays finite through any number of layers.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cache

import numpy as np

from random_tokenizer import random_tokenizer
from tpid.model.inventory import layer_matrix_shapes, layer_vector_shapes
from tpid.model.sampling_defaults import SamplingDefaults
from tpid.model.source import TokenizerFiles, WeightSource
from tpid.model.spec import ModelSpec
from tpid.model.weights import F32, GROUP, GROUPED, Format, Matrix, W4Matrix, W4SMatrix, W8Matrix, quantize
from tpid.pack.encode import encode_units
from tpid.pack.geometry import COLUMN_SPLIT, TILE_BYTES, TILE_COLUMNS, MatrixGeometry, UnitGeometry
from tpid.pack.tiles import U8, pack_tiles

POOL_WEIGHTS = 16 << 20  # 10 MB in w4, 34 MB in f16
_STEP_TILES = 7919  # prime: how far the start in the pool moves from matrix to matrix

_Q4_MEAN, _Q4_DEVIATION = 7.5, 4.61  # of whole numbers 0…15, all as likely
_Q8_DEVIATION = 73.3  # of -127…127


class RandomSource:
    """A WeightSource; the same shape, format, seed and biases give the same pack."""

    def __init__(
        self, spec: ModelSpec, format: Format, seed: int = 1, *, key_bias: float = 0.0, n_biased: int | None = None
    ) -> None:
        """Keys get biases between -key_bias and key_bias; with `n_biased`, so many of each head's get one of these two
        and the others a hundredth at most."""
        self.spec = spec
        self._key_bias = key_bias
        self._n_biased = n_biased
        self._format = format
        self._seed = seed
        identity = json.dumps([asdict(spec), format, seed, key_bias, n_biased])
        self.published_bytes = 0
        self.fingerprint = f"random:{hashlib.sha256(identity.encode()).hexdigest()}"
        self._in_layer = layer_matrix_shapes(spec)

    @property
    def notices(self) -> list[str]:
        return []

    def sampling_defaults(self) -> SamplingDefaults:
        return SamplingDefaults()

    def natural_format(self, name: str) -> Format:
        return self._format

    def n_inputs(self, name: str) -> int:
        """Of a matrix; the embedding has one, for each token picks a row of it."""
        kind = name.rpartition(".")[2]
        if kind in self._in_layer:
            return self._in_layer[kind][1]
        return 1 if kind == "embed" else self.spec.hidden_size

    def matrix(self, name: str, start_row: int, stop_row: int) -> Matrix:
        kind = name.rpartition(".")[2]
        columns = self._in_layer[kind][1] if kind in self._in_layer else self.spec.hidden_size
        seed = int.from_bytes(hashlib.sha256(f"{name} {start_row}".encode()).digest()[:4], "little")
        rng = np.random.default_rng((self._seed, seed))
        # A format of groups cannot hold a part of a group: the import makes such columns f16, from here.
        format = self._format if columns % GROUP == 0 else Format.F16
        return random_matrix(rng, stop_row - start_row, columns, format, self.n_inputs(name))

    def vector(self, name: str) -> F32:
        """Norms are ones, biases zeros but for those of keys."""
        kind = name.rpartition(".")[2]
        size = (
            self.spec.hidden_size
            if kind == "final_norm"
            else layer_vector_shapes(self.spec, self.spec.layer(0))[kind][0]
        )
        if kind == "k_bias":
            return self._key_biases(np.random.default_rng((self._seed, *name.encode())), size)
        return np.ones(size, np.float32) if kind.endswith("norm") else np.zeros(size, np.float32)

    def _key_biases(self, rng: np.random.Generator, size: int) -> F32:
        biases = self._key_bias * rng.uniform(-1, 1, size).astype(np.float32)
        if self._n_biased is None:
            return biases
        order = rng.permuted(np.tile(np.arange(self.spec.head_dim), (size // self.spec.head_dim, 1)), axis=1).reshape(
            -1
        )
        return np.where(
            order < self._n_biased, np.copysign(np.float32(self._key_bias), biases), biases / np.float32(100)
        )

    def tokenizer(self) -> TokenizerFiles:
        return random_tokenizer(self.spec.vocab_size)

    def close(self) -> None:
        return None


class RandomUnits:
    """A UnitEncoder that copies tiles from the pools: one unit at a time, nothing drawn or converted."""

    def __init__(self, source: RandomSource, seed: int = 1) -> None:
        self._random = source
        self._seed = seed
        self._starts: dict[int, int] = {}  # of the next matrix, by the number of tiles in the pool
        self._pool = cache(self._draw_pool)

    def __call__(self, source: WeightSource, geometry: UnitGeometry, tensors: Mapping[str, str]) -> Iterator[U8]:
        out = np.zeros((1, geometry.stride_bytes), np.uint8)
        for unit in range(geometry.n_units):
            if self._is_whole(geometry, tensors, unit):
                for matrix in geometry.matrices:
                    self._fill(out[0], matrix, self._random.n_inputs(tensors[matrix.name]))
                yield out
            else:  # zeros beyond the matrix are the import's own business
                yield encode_units(source, geometry, tensors, unit, unit + 1)

    def _is_whole(self, geometry: UnitGeometry, tensors: Mapping[str, str], unit: int) -> bool:
        """Nothing in it lies beyond the matrices, neither rows nor columns."""
        spec = self._random.spec
        for matrix in geometry.matrices:
            kind = tensors[matrix.name].rpartition(".")[2]
            rows, columns = layer_matrix_shapes(spec).get(kind, (spec.vocab_size, spec.hidden_size))
            along, size = (columns, matrix.columns) if matrix.name in COLUMN_SPLIT else (rows, matrix.rows)
            if (unit + 1) * size > along or matrix.columns % TILE_COLUMNS or matrix.rows % 8:
                return False
        return True

    def _fill(self, unit: U8, matrix: MatrixGeometry, n_inputs: int) -> None:
        pool = self._pool(matrix.format, n_inputs)
        tile_bytes = TILE_BYTES[matrix.format]
        out = unit[matrix.offset_bytes : matrix.offset_bytes + matrix.size_bytes].reshape(-1, tile_bytes)
        start = self._starts.get(len(pool), 0)
        self._starts[len(pool)] = (start + len(out) + _STEP_TILES) % len(pool)
        done = 0
        while done < len(out):
            n = min(len(pool) - start, len(out) - done)
            out[done : done + n] = pool[start : start + n]
            done, start = done + n, 0

    def _draw_pool(self, format: Format, n_inputs: int) -> U8:
        """[n_tiles, tile_bytes] uint8"""
        rng = np.random.default_rng((self._seed, list(Format).index(format), n_inputs))
        parts = [pack_tiles(random_matrix(rng, 1024, 1024, format, n_inputs)) for _ in range(POOL_WEIGHTS >> 20)]
        return np.concatenate(parts).reshape(-1, TILE_BYTES[format])


def random_matrix(rng: np.random.Generator, rows: int, columns: int, format: Format, n_inputs: int) -> Matrix:
    """Mean 0, variance 1 / n_inputs; scales differ from group to group, as published ones do."""
    deviation = n_inputs**-0.5
    if format not in GROUPED:
        return quantize(rng.standard_normal((rows, columns), np.float32) * np.float32(deviation), format)
    groups = columns // GROUP
    spread = rng.uniform(0.7, 1.3, (rows, groups)).astype(np.float32)
    if format is Format.W8:
        quants = rng.integers(-127, 128, (rows, groups, GROUP), np.int8)
        return W8Matrix(quants, (spread * (deviation / _Q8_DEVIATION)).astype(np.float16))
    scales = (spread * (deviation / _Q4_DEVIATION)).astype(np.float16)
    if format is Format.W4S:
        return W4SMatrix(rng.integers(0, 16, (rows, groups, GROUP), np.uint8), scales)
    minimums = (-_Q4_MEAN * scales.astype(np.float32)).astype(np.float16)
    return W4Matrix(rng.integers(0, 16, (rows, groups, GROUP), np.uint8), scales, minimums)

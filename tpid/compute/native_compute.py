"""The native backend as a choice."""

import statistics
import time

import numpy as np

from tpid.compute.native.library import Cores
from tpid.compute.native_backend import NativeBackend, NativeHead
from tpid.errors import LoadError
from tpid.model.spec import ModelSpec
from tpid.model.weights import F32, Format
from tpid.pack.geometry import ALIGN_BYTES, MatrixGeometry, Share, UnitGeometry

_COLUMNS = 4096
_READ_ROWS = 49152  # 126 MB in w4: beside 32 MB of cache, 42 MB gave two cores 1.6 times what memory gives
_READ_ROUNDS = 7
_TOKENS = 64
_MATMUL_ROWS = 2048
_MATMUL_ROUNDS = 3  # on a small processor each takes a tenth of a second


class NativeCompute:
    def __init__(self, n_threads: int, activation_bits: int = 16, kv_dtype: str = "f16") -> None:
        """Raises LoadError where the kernels were not built."""
        try:
            self._cores = Cores(n_threads, planes=activation_bits // 8)
        except OSError as error:
            raise LoadError(str(error), hint="Install a C compiler, then install tpid again.") from error

        self._int8_cache = kv_dtype == "int8"

    @property
    def name(self) -> str:
        """What the planner counts its memory by."""
        return "native-kv8" if self._int8_cache else "native"

    @property
    def kernels(self) -> str:
        """The instruction set that is used."""
        return self._cores.kernels

    def backend(
        self, spec: ModelSpec, share: Share, *, n_slots: int, context_tokens: int, max_tokens: int
    ) -> NativeBackend:
        return NativeBackend(
            self._cores, spec, share, n_slots=n_slots, context_tokens=context_tokens, max_pass_tokens=max_tokens,
            int8_cache=self._int8_cache,
        )  # fmt: skip

    def head(self, spec: ModelSpec, geometry: UnitGeometry, final_norm: F32) -> NativeHead:
        return NativeHead(self._cores, spec, geometry, final_norm)

    def measure_read_bytes_s(self) -> float:
        """The median of a few over w4 weights; takes some 100 ms."""
        matrix = MatrixGeometry("rows", _READ_ROWS, _COLUMNS, Format.W4, 0)
        stride = -(-matrix.size_bytes // ALIGN_BYTES) * ALIGN_BYTES
        units = np.zeros((1, stride), np.uint8)
        units[:] = 1  # touched, so that the pages are memory
        vector = np.ones((1, _COLUMNS), np.float32)
        times = []
        for _ in range(_READ_ROUNDS):
            started = time.perf_counter()
            self._cores.rows(matrix, units, _READ_ROWS, vector)
            times.append(time.perf_counter() - started)
        return matrix.size_bytes / statistics.median(times)

    def measure_matmul_flops_s(self) -> float:
        """The best of a few over w4 weights."""
        matrix = MatrixGeometry("rows", _MATMUL_ROWS, _COLUMNS, Format.W4, 0)
        units = np.ones((1, -(-matrix.size_bytes // ALIGN_BYTES) * ALIGN_BYTES), np.uint8)
        tokens = np.ones((_TOKENS, _COLUMNS), np.float32)
        times = []
        for _ in range(_MATMUL_ROUNDS):
            started = time.perf_counter()
            self._cores.rows(matrix, units, _MATMUL_ROWS, tokens)
            times.append(time.perf_counter() - started)
        return 2 * _MATMUL_ROWS * _COLUMNS * _TOKENS / min(times)

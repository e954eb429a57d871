"""The torch backend as a choice."""

import statistics
import time

import torch

from tpid.compute.torch_backend import TorchBackend, TorchHead
from tpid.model.spec import ModelSpec
from tpid.model.weights import F32
from tpid.pack.geometry import Share, UnitGeometry

_COLUMNS = 4096
_READ_ROWS = 8192  # 128 MiB in fp32: several times the caches of most devices
_READ_ROUNDS = 7
_TOKENS = 64
_MATMUL_ROWS = 2048
_MATMUL_ROUNDS = 3  # on a small processor each takes a tenth of a second


class TorchCompute:
    name = "torch"
    kernels = "torch"

    def __init__(self, n_threads: int) -> None:
        torch.set_num_threads(n_threads)

    def backend(
        self, spec: ModelSpec, share: Share, *, n_slots: int, context_tokens: int, max_tokens: int
    ) -> TorchBackend:
        return TorchBackend(spec, share, n_slots=n_slots, context_tokens=context_tokens)

    def head(self, spec: ModelSpec, geometry: UnitGeometry, final_norm: F32) -> TorchHead:
        return TorchHead(spec, geometry, final_norm)

    @torch.inference_mode()
    def measure_read_bytes_s(self) -> float:
        """The median of a few; takes some 100 ms."""
        weights = torch.ones(_READ_ROWS, _COLUMNS)
        vector = torch.ones(_COLUMNS)
        torch.mv(weights, vector)
        times = []
        for _ in range(_READ_ROUNDS):
            started = time.perf_counter()
            torch.mv(weights, vector)
            times.append(time.perf_counter() - started)
        return weights.numel() * weights.element_size() / statistics.median(times)

    @torch.inference_mode()
    def measure_matmul_flops_s(self) -> float:
        """The best of a few."""
        weights, tokens = torch.ones(_MATMUL_ROWS, _COLUMNS), torch.ones(_TOKENS, _COLUMNS)
        times = []
        for _ in range(_MATMUL_ROUNDS):
            started = time.perf_counter()
            torch.mm(tokens, weights.T)
            times.append(time.perf_counter() - started)
        return 2 * weights.numel() * _TOKENS / min(times)

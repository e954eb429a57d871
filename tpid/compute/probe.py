"""How fast this device goes through weights, measured at start: what plans divide by."""

import statistics
import time

import torch

_ROWS = 2048
_COLUMNS = 4096  # 32 MiB in fp32: larger than the caches of most devices
_ROUNDS = 7


@torch.inference_mode()
def measure_read_bytes_s() -> float:
    """Bytes of fp32 weights a second in a matrix-vector product, the median of a few; takes some 50 ms."""
    weights = torch.ones(_ROWS, _COLUMNS)
    vector = torch.ones(_COLUMNS)
    torch.mv(weights, vector)
    times = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        torch.mv(weights, vector)
        times.append(time.perf_counter() - started)
    return weights.numel() * weights.element_size() / statistics.median(times)

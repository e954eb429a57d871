"""How fast memory is read when nothing else is done with it: the limit of decode, which reads all weights once a token.

The faster of libc's memchr and torch's sum; a loop of AVX-512 loads in C was 5 % faster than these, numpy's max is
15 % slower.
"""

import ctypes
import mmap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

READ_BYTES = 256 << 20  # many times what caches hold


def timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def huge_pages(n_bytes: int) -> np.ndarray:
    """[n_bytes] uint8, as prepared blocks have their memory: huge pages where the system has them."""
    memory = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


class PlainRead:
    """Of so many threads together; sets torch's."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        buffer = huge_pages(READ_BYTES)
        buffer[:] = 1
        self._numbers = torch.from_numpy(buffer.view(np.float32))
        part = READ_BYTES // threads
        self._parts = [buffer[i * part : (i + 1) * part] for i in range(threads)]
        self._threads = ThreadPoolExecutor(threads)
        self._memchr = ctypes.CDLL(None).memchr  # without the GIL
        self._memchr.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
        self._memchr.restype = ctypes.c_void_p

    def bytes_s(self) -> float:
        return READ_BYTES / min(timed(self._numbers.sum), timed(self._search))

    def _search(self) -> None:
        """For a byte that is not there."""
        list(self._threads.map(lambda part: self._memchr(part.ctypes.data, 7, part.size), self._parts))

"""Memory for weights: page-aligned, as direct I/O asks, and in huge pages where the system has them."""

import mmap

import numpy as np

from tpid.errors import LoadError
from tpid.pack.tiles import U8
from tpid.size import shown_size


def page_aligned(size_bytes: int) -> U8:
    """[size_bytes] uint8 in pages of its own, given back to the system with the last reference. Raises LoadError."""
    if size_bytes == 0:
        return np.empty(0, np.uint8)
    # Private: by default it would be shared memory, which huge pages are seldom allowed for.
    try:
        memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise LoadError(
            f"The system gives no {shown_size(size_bytes)} of memory for weights: {error}.",
            hint="Lower memory_budget, or close other programs.",
        ) from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)

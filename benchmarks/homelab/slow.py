"""A device with slow cores, in a daemon before it starts: each kernel call takes so many times its time of the core.

The rest it sleeps, so that several slow devices really compute at once on few cores. A limit of CPU time is no such
thing: it stops a device in the middle of an exchange, and what waits at a socket uses it up.
"""

import ctypes
import functools
import threading
import time
from collections.abc import Callable
from typing import Any

from tpid.compute.native.library import Cores
from tpid.compute.native_backend import NativeBackend

_PR_SET_TIMERSLACK = 29
_thread = threading.local()


def install(times: float) -> None:
    NativeBackend._compute = _slowed(NativeBackend._compute, times)  # type: ignore[method-assign]
    Cores.rows = _slowed(Cores.rows, times)  # type: ignore[method-assign]


def _slowed(call: Callable[..., Any], times: float) -> Callable[..., Any]:
    @functools.wraps(call)
    def slow(*arguments: Any, **named: Any) -> Any:
        _sleep_exactly()
        began_s, cpu_s = time.perf_counter(), time.thread_time()
        result = call(*arguments, **named)
        left_s = began_s + times * (time.thread_time() - cpu_s) - time.perf_counter()
        if left_s > 0:
            time.sleep(left_s)
        return result

    return slow


def _sleep_exactly() -> None:
    """To the microsecond, in each thread that does."""
    if not getattr(_thread, "exact", False):
        _thread.exact = True
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)

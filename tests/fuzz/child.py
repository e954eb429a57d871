"""One target in a process of its own: `python -m tests.fuzz.child NAME fuzz SECONDS CORPUS … | replay FILE …`.

Fuzzing is guided by coverage where atheris is installed, else random changes of the corpus. A replay runs without
instruments, so that its times are those of the product. Both end with a traceback at the first input that raises or
goes beyond the limits; fuzzing leaves that input in the present directory and says how many it ran.
"""

import importlib
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

from tests.fuzz.limits import HANG_S, MAX_GROWTH_BYTES, MAX_INPUT_S

try:
    import atheris
except ImportError:  # there are wheels for few platforms
    atheris = None

Target = Callable[[bytes], None]

MAX_INPUT_BYTES = 16384
EXECUTIONS = "stat::number_of_executed_units:"  # as libFuzzer writes it


class LimitExceeded(Exception):
    """An input that took too long or too much."""


def load_target(name: str, *, instrumented: bool) -> Target:
    instruments = atheris.instrument_imports(include=["tpid", "tests.fuzz.targets"]) if instrumented else nullcontext()
    with instruments:
        module: ModuleType = importlib.import_module(f"tests.fuzz.targets.{name}")
    fuzz: Target = module.fuzz
    return fuzz


def limited(target: Target) -> Target:
    """The target, raising LimitExceeded; memory beyond twice the limit raises MemoryError where it is asked for."""
    peak_before = _peak_bytes()
    data_bytes = _data_bytes() + 2 * MAX_GROWTH_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, data_bytes))

    def run(data: bytes) -> None:
        begin_s = time.process_time()
        target(data)
        took_s = time.process_time() - begin_s
        grown = _peak_bytes() - peak_before
        if took_s > MAX_INPUT_S:
            raise LimitExceeded(f"An input of {len(data)} bytes took {took_s:.1f} s, more than {MAX_INPUT_S:g} s.")
        if grown > MAX_GROWTH_BYTES:
            raise LimitExceeded(f"An input of {len(data)} bytes took the process to {grown >> 20} MiB more memory.")

    return run


def fuzz_guided(target: Target, seconds: float, corpora: list[str]) -> None:
    options = [f"-max_total_time={max(1, round(seconds))}", f"-timeout={HANG_S}", "-rss_limit_mb=0"]
    options += [f"-max_len={MAX_INPUT_BYTES}", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, *corpora], target)
    atheris.Fuzz()


def fuzz_unguided(target: Target, seconds: float, corpora: list[str]) -> None:
    rng = random.Random(int.from_bytes(random.SystemRandom().randbytes(8)))
    seeds = [path.read_bytes() for corpus in corpora for path in sorted(Path(corpus).iterdir())] or [b""]
    end_s, runs = time.monotonic() + seconds, 0
    while runs < len(seeds) or time.monotonic() < end_s:
        data = seeds[runs] if runs < len(seeds) else _changed(rng, rng.choice(seeds), rng.choice(seeds))
        runs += 1
        try:
            target(data)
        except BaseException:
            Path(f"crash-{runs}").write_bytes(data)
            print(EXECUTIONS, runs)
            raise
    print(EXECUTIONS, runs)


def _changed(rng: random.Random, data: bytes, other: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        start = rng.randrange(len(changed) + 1)
        stop = min(len(changed), start + rng.choice((0, 1, 1, 2, 4, 8, 64)))
        source = rng.randrange(len(other) + 1)
        choices = (rng.randbytes(stop - start), rng.randbytes(1), other[source : source + 32], changed[start:stop] * 2)
        changed[start:stop] = rng.choice(choices)
    return bytes(changed[:MAX_INPUT_BYTES])


_STATUS = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)


def _peak_bytes() -> int:
    """Most memory so far. What getrusage says would begin with that of the process that started this one."""
    status = os.pread(_STATUS, 4096, 0)
    start = status.index(b"VmHWM:") + 6
    return int(status[start : status.index(b"kB", start)]) << 10


def _data_bytes() -> int:
    """What RLIMIT_DATA counts."""
    return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()


def main() -> None:
    name, how, *rest = sys.argv[1:]
    guided = how == "fuzz" and atheris is not None
    target = limited(load_target(name, instrumented=guided))
    if how == "replay":
        signal.alarm(HANG_S)
        for path in rest:
            target(Path(path).read_bytes())
    else:
        (fuzz_guided if guided else fuzz_unguided)(target, float(rest[0]), rest[1:])


if __name__ == "__main__":
    main()

"""Thousands of requests with cancels: memory, descriptors and threads do not grow, and logs stay small.

Runs where `TPID_SOAK` gives a number of requests; its last result is in docs/benchmarks.md.
"""

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.chaos import PROMPTS, Answer, open_files, threads

N_REQUESTS = int(os.environ.get("TPID_SOAK", "0"))
N_SAMPLES = 100
WARM = 0.3  # of the samples, in which caches fill
MOST_GROWTH_BYTES = 2_000  # a request: an allocator's rest is far below, a lost answer or session far above
MOST_LOG_BYTES = 1024  # a request
N_TOKENS = 4


@dataclass
class Sample:
    request: int
    memory_bytes: int
    files: int
    threads: int


@pytest.mark.skipif(N_REQUESTS == 0, reason="a soak takes long: set TPID_SOAK to a number of requests")
@pytest.mark.timeout(24 * 3600)
def test_nothing_grows_with_the_number_of_requests(model_home: Any) -> None:
    daemons = model_home.start("user", "helper", memory_budget="400M")
    user, chance = daemons[0], random.Random(N_REQUESTS)
    expected = {prompt: _text(user.chat(prompt, max_tokens=N_TOKENS)) for prompt in PROMPTS}
    samples: dict[str, list[Sample]] = {daemon.name: [] for daemon in daemons}
    for request in range(N_REQUESTS):
        prompt = chance.choice(PROMPTS)
        if chance.random() < 0.3:
            answer = Answer(user, prompt)
            answer.wait_for_texts(chance.randrange(3))
            answer.leave()
            answer.join()
        else:
            assert _text(user.chat(prompt, max_tokens=N_TOKENS)) == expected[prompt]
        if request % max(N_REQUESTS // N_SAMPLES, 1) == 0:
            for daemon in daemons:
                samples[daemon.name].append(Sample(request, _memory_bytes(daemon), open_files(daemon), threads(daemon)))
    for daemon in daemons:
        warm = samples[daemon.name][int(WARM * len(samples[daemon.name])) :]
        growth = _slope([sample.request for sample in warm], [sample.memory_bytes for sample in warm])
        log_bytes = (daemon.directory / "log").stat().st_size / N_REQUESTS
        print(
            f"{daemon.name}: {N_REQUESTS} requests, memory {growth:+.0f} bytes a request, "
            f"{warm[-1].memory_bytes / 1e6:.0f} MB, {warm[-1].files} files, {warm[-1].threads} threads, "
            f"{log_bytes:.0f} bytes of log a request"
        )
        assert growth < MOST_GROWTH_BYTES
        assert warm[-1].files <= max(sample.files for sample in warm[: len(warm) // 4])
        assert warm[-1].threads <= max(sample.threads for sample in warm[: len(warm) // 4])
        assert log_bytes <= MOST_LOG_BYTES


def _text(answer: Any) -> str:
    text: str = answer["choices"][0]["message"]["content"]
    return text


def _memory_bytes(daemon: Any) -> int:
    for line in Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS")


def _slope(x: list[int], y: list[int]) -> float:
    """Theil and Sen's: the median of the slopes between all pairs, so that single outliers do not count."""
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    first, second = np.triu_indices(len(xs), 1)
    return float(np.median((ys[second] - ys[first]) / (xs[second] - xs[first])))

"""The native backend in real daemons: right answers, no torch, and less memory than torch would take."""

from typing import Any

import psutil
import pytest

from tpid.compute.native.library import load

Home = Any  # of conftest.py

if load() is None:
    pytest.skip("the native kernels are not built", allow_module_level=True)

PROMPT = "What is the capital of France? Tell me about it."
# Too little for the model: the plan needs the other device, however slow this machine makes it look.
SMALL: dict[str, Any] = {"memory_budget": "176MiB", "context_tokens": 512}


def test_two_native_daemons_answer_within_the_memory_that_was_planned(model_home: Home) -> None:
    daemons = model_home.start("user", "helper", backend="native", **SMALL)
    for _ in range(2):  # prefilled, then from the cache
        assert "Paris" in daemons[0].chat(PROMPT, max_tokens=24)["choices"][0]["message"]["content"]
    ranks = daemons[0].status()["plan"]["ranks"]
    assert len(ranks) == 2
    for daemon, rank in zip(daemons, ranks, strict=True):
        process = psutil.Process(daemon.process.pid)
        assert process.memory_info().rss <= rank["memory_bytes"]
        assert not any("libtorch" in mapping.path for mapping in process.memory_maps())


def test_native_and_torch_devices_work_together(model_home: Home) -> None:
    model_home.pair(user="user", helper="helper")
    user = model_home.launch("user", role="user", backend="native", **SMALL)
    model_home.launch("helper", role="helper", backend="torch", context_tokens=512)
    user.wait("both", lambda status: sum(d["granted"] for d in status["cluster"]["devices"]) == 2)
    assert "Paris" in user.chat(PROMPT, max_tokens=24)["choices"][0]["message"]["content"]
    assert len(user.status()["plan"]["ranks"]) == 2

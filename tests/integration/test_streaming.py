"""Daemons whose memory is smaller than their share: the same tokens, within the memory, whatever the disk does."""

import contextlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tpid.compute.native.library import load

Home = Any  # of conftest.py

if load() is None:
    pytest.skip("the native kernels are not built", allow_module_level=True)

PROMPTS = ("How do plants make food?", "What is the capital of France?")
SETTINGS = {"context_tokens": 512}
BUDGETS = {"user": "176MiB", "helper": "150MiB"}


def start_small(home: Home) -> list[Any]:
    home.pair(user="user", helper="helper")
    user = home.launch("user", role="user", memory_budget=BUDGETS["user"], **SETTINGS)
    helper = home.launch("helper", role="helper", memory_budget=BUDGETS["helper"], **SETTINGS)
    user.wait("both", lambda status: sum(d["granted"] for d in status["cluster"]["devices"]) == 2)
    return [user, helper]


def texts(user: Any, max_tokens: int = 48) -> list[str]:
    return [user.chat(prompt, max_tokens=max_tokens)["choices"][0]["message"]["content"] for prompt in PROMPTS]


def streamed_bytes(daemon: Any) -> float:
    """What a device has read for passes, as it tells Prometheus."""
    with contextlib.closing(daemon.connect()) as connection:
        connection.request("GET", "/metrics")
        families = text_string_to_metric_families(connection.getresponse().read().decode())
    return next(family.samples[0].value for family in families if family.name == "tpid_streamed_bytes")


def test_different_budgets_give_the_tokens_that_all_resident_gives(model_home: Home) -> None:
    resident = model_home.start("large", "other", **SETTINGS)
    expected = texts(resident[0])
    assert [use["streamed_bytes"] for use in resident[0].status()["weights"].values()] == [0, 0]
    for daemon in resident:
        daemon.stop()

    user, helper = start_small(model_home)
    assert texts(user) == expected
    status = user.status()
    streaming = [use for use in status["weights"].values() if use["streamed_bytes"]]  # who does is by the shares
    assert streaming
    assert all(use["disk_bytes_s"] > 0 and use["stall_s"] >= 0 for use in streaming)
    reading = [use["streamed_bytes"] for use in status["weights"].values()]
    for daemon, rank, pass_bytes in zip((user, helper), status["plan"]["ranks"], reading, strict=True):
        assert streamed_bytes(daemon) >= 10 * pass_bytes
        assert psutil.Process(daemon.process.pid).memory_info().rss <= rank["memory_bytes"]


def test_a_file_that_is_cut_off_under_a_running_daemon_is_one_error_and_the_daemon_lives(model_home: Home) -> None:
    layers = model_home.models_dir / "smollm2-135m" / "layers"
    for path in layers.iterdir():  # links to the pack of all tests
        shutil.copy2(path, path.with_suffix(".own"))
        path.with_suffix(".own").replace(path)
    user, helper = start_small(model_home)
    expected = texts(user)
    whole = {path: path.read_bytes() for path in layers.iterdir()}
    for path in whole:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)

    for _ in range(2):
        status, answer = user.request(
            "/v1/chat/completions", {"model": "smollm2-135m", "messages": [{"role": "user", "content": PROMPTS[0]}]}
        )
        assert status in (422, 503)  # in the pass, and when the plan is loaded anew
        assert ".safetensors" in answer["error"]["message"]
        assert user.process.poll() is None
        assert helper.process.poll() is None

    for path, content in whole.items():
        path.write_bytes(content)
    assert texts(user) == expected


def test_one_device_gives_the_same_at_any_budget(model_home: Home) -> None:
    """From a window of one block to everything resident; by torch as well."""
    settings = {"context_tokens": 256, "prefill_tokens": 32}  # what is not weights takes little
    answers, streamed = {}, {}
    for backend, budget in (("native", "4G"), ("native", "215MiB"), ("native", "160MiB"), ("torch", "500MiB")):
        name = f"{backend}-{budget}"
        (daemon,) = model_home.start(name, memory_budget=budget, backend=backend, **settings)
        answers[name] = texts(daemon, 16)
        (use,) = daemon.status()["weights"].values()
        streamed[name] = use["streamed_bytes"]
        assert (use["window_bytes"] > 0) == (streamed[name] > 0)
        if streamed[name]:
            assert use["disk_bytes_s"] > 0
            assert use["stall_s"] >= 0
        daemon.stop()
    assert set(map(tuple, answers.values())) == {tuple(answers["native-4G"])}
    assert 0 == streamed["native-4G"] < streamed["native-215MiB"] < streamed["native-160MiB"]
    assert streamed["torch-500MiB"] > 0


def test_alone_the_block_that_cannot_be_read_is_named_and_the_file_mended_is_enough(model_home: Home) -> None:
    path = model_home.models_dir / "smollm2-135m" / "layers" / "014.safetensors"
    shutil.copy2(path, path.with_suffix(".own"))
    path.with_suffix(".own").replace(path)
    (daemon,) = model_home.start("alone", memory_budget="160MiB", context_tokens=256, prefill_tokens=32)
    expected, whole = texts(daemon), path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(8192)
    for prompt in PROMPTS:
        body = {"model": "smollm2-135m", "messages": [{"role": "user", "content": prompt}]}
        status, answer = daemon.request("/v1/chat/completions", body)
        assert (status, answer["error"]["code"]) == (503, "load")
        assert "014.safetensors ends before byte" in answer["error"]["message"]
        assert "of layer 14" in answer["error"]["message"]
    with path.open("r+b") as file:
        file.write(whole)
    assert texts(daemon) == expected


@pytest.fixture
def faulty_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`faulty_disk(path, from_byte)` for the daemons that start after; gives the switch that breaks the files there."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler for the faulty disk")
    library, switch = tmp_path / "faulty_disk.so", tmp_path / "broken"
    source = Path(__file__).with_name("faulty_disk.c")
    subprocess.run([compiler, "-Wall", "-Werror", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)

    def install(path: Path, from_byte: int) -> Path:
        monkeypatch.setenv("LD_PRELOAD", str(library))
        monkeypatch.setenv("FAULTY_PATH", str(path))
        monkeypatch.setenv("FAULTY_FROM", str(from_byte))
        monkeypatch.setenv("FAULTY_WHILE", str(switch))
        return switch

    return install


def test_a_broken_disk_is_one_error_that_names_the_file_and_the_daemons_live(
    model_home: Home, faulty_disk: Any
) -> None:
    """Two ranks; the disk breaks while they stream, and is well again later."""
    switch = faulty_disk((model_home.models_dir / "smollm2-135m").resolve(), from_byte=8192)
    user, helper = start_small(model_home)
    expected = texts(user)
    switch.touch()
    for prompt in PROMPTS:
        assert_read_error(user, prompt)
        assert user.process.poll() is None
        assert helper.process.poll() is None
    switch.unlink()
    assert texts(user) == expected


def test_a_broken_sector_of_a_streamed_layer_is_one_error_that_names_it(model_home: Home, faulty_disk: Any) -> None:
    layers = model_home.models_dir / "smollm2-135m" / "layers"
    switch = faulty_disk((layers / "014.safetensors").resolve(), from_byte=8192)
    (daemon,) = model_home.start("alone", memory_budget="160MiB", context_tokens=256, prefill_tokens=32)
    expected = texts(daemon)
    switch.touch()
    for prompt in PROMPTS:
        assert "014.safetensors" in assert_read_error(daemon, prompt)
    switch.unlink()
    assert texts(daemon) == expected


def assert_read_error(daemon: Any, prompt: str) -> str:
    """What the daemon says of the disk, be it in the pass or when the plan is loaded anew."""
    body = {"model": "smollm2-135m", "messages": [{"role": "user", "content": prompt}]}
    status, answer = daemon.request("/v1/chat/completions", body)
    assert status in (422, 503)
    message: str = answer["error"]["message"]
    assert ".safetensors" in message
    assert "Input/output error" in message
    return message

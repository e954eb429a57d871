"""What goes wrong ends with one clear error, and the daemons live on."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

Home = Any  # of conftest.py

LONG = "Tell me a very long story."
NOTICE_LIMIT_S = 6.0  # 3 s of silence, and what a busy test machine adds


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
def test_an_answer_outlives_a_worker_token_for_token(model_home: Home, sign: signal.Signals) -> None:
    user, helper = model_home.start("user", "helper")
    undisturbed = user.chat(LONG, max_tokens=150)["choices"][0]["message"]["content"]
    assert len(user.status()["plan"]["ranks"]) == 2
    texts = user.stream(LONG, max_tokens=150).texts()
    said = [next(texts) for _ in range(20)]
    helper.process.send_signal(sign)
    lost_at = time.monotonic()
    said.append(next(texts))
    paused_s = time.monotonic() - lost_at
    said += texts
    assert "".join(said) == undisturbed
    assert paused_s < NOTICE_LIMIT_S
    assert [rank["name"] for rank in user.status()["plan"]["ranks"]] == ["user"]


def test_a_coordinator_that_stood_still_goes_on(model_home: Home) -> None:
    """A laptop that sleeps in the middle of an answer: its worker has let its share go by then."""
    user, helper = model_home.start("user", "helper")
    undisturbed = user.chat(LONG, max_tokens=150)["choices"][0]["message"]["content"]
    texts = user.stream(LONG, max_tokens=150).texts()
    said = [next(texts) for _ in range(20)]
    user.process.send_signal(signal.SIGSTOP)
    helper.wait("nothing held", lambda status: status["holding"] is None)
    user.process.send_signal(signal.SIGCONT)
    said += texts
    assert "".join(said) == undisturbed
    assert "Paris" in user.chat("What is the capital of France?")["choices"][0]["message"]["content"]


def test_a_worker_that_returns_joins_the_next_plan(model_home: Home) -> None:
    user, helper = model_home.start("user", "helper")
    user.chat("Hello.", max_tokens=4)
    helper.process.kill()
    helper.process.wait()
    user.wait("the loss", lambda status: len(status["cluster"]["devices"]) == 1)
    user.chat("Hello.", max_tokens=4)
    model_home.launch("helper", role="helper")
    user.wait("the return", lambda status: sum(d["granted"] for d in status["cluster"]["devices"]) == 2)
    assert "Paris" in user.chat("What is the capital of France?")["choices"][0]["message"]["content"]
    assert len(user.status()["plan"]["ranks"]) == 2


def test_a_lost_coordinator_frees_its_worker(model_home: Home) -> None:
    user, helper = model_home.start("user", "helper")
    user.chat("Hello.", max_tokens=4)
    helper.wait("the share", lambda status: status["holding"] is not None)
    user.process.kill()
    helper.wait("nothing held", lambda status: status["holding"] is None)
    assert helper.process.poll() is None


def test_the_lease_follows_the_prompt(model_home: Home) -> None:
    """Two laptops: each answers from its own prompt, one after the other, with the other one's help."""
    model_home.pair(first="user", second="user")
    first = model_home.launch("first", role="user")
    second = model_home.launch("second", role="user")
    for daemon in (first, second):
        daemon.wait("the other", lambda status: len(status["cluster"]["devices"]) == 2)
    for daemon in (first, second, first):
        assert "Paris" in daemon.chat("What is the capital of France?")["choices"][0]["message"]["content"]
        ranks = daemon.status()["plan"]["ranks"]
        assert ranks[0]["name"] == daemon.name
        assert len(ranks) == 2


def test_a_model_that_does_not_fit_says_which_device_has_how_much(model_home: Home) -> None:
    user, helper = model_home.start("user", "helper", backend="torch", memory_budget="300MiB")
    status, answer = user.request("/v1/chat/completions", _body("Hello."))
    assert (status, answer["error"]["code"]) == (503, "memory_plan")
    assert "missing on user" in answer["error"]["message"]
    assert "user 315 MB" in answer["error"]["message"]
    assert "memory_budget" in answer["error"]["message"]
    assert user.process.poll() is None
    assert helper.process.poll() is None


def test_a_device_without_the_model_is_left_out_and_the_plan_says_why(model_home: Home, tmp_path: Path) -> None:
    model_home.pair(user="user", empty="helper")
    (user,) = model_home.start("user")
    model_home.launch("empty", role="helper", models_dir=str(tmp_path), fetch_units=False)
    user.wait("both", lambda status: sum(d["granted"] for d in status["cluster"]["devices"]) == 2)
    user.chat("Hello.", max_tokens=4)
    plan = user.status()["plan"]
    assert [rank["name"] for rank in plan["ranks"]] == ["user"]
    assert [entry["name"] for entry in plan["left_out"]] == ["empty"]
    assert "does not have this model" in plan["left_out"][0]["reason"]


def test_a_share_that_cannot_be_read_is_an_error_that_names_the_device(model_home: Home) -> None:
    user, _ = model_home.start("user", "helper")
    layer = model_home.models_dir / "smollm2-135m" / "layers" / "007.safetensors"
    whole = layer.read_bytes()
    layer.unlink()  # the file may be linked from elsewhere
    layer.write_bytes(whole[: len(whole) // 2])
    status, answer = user.request("/v1/chat/completions", _body("Hello."))
    assert status >= 400
    assert "007.safetensors" in answer["error"]["message"]
    layer.write_bytes(whole)
    assert user.chat("Hello.", max_tokens=4)["usage"]["completion_tokens"] == 4


def test_a_port_in_use_is_one_sentence(home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = _run_daemon(home.write_config("late", port=port))
    assert result.returncode == 1
    assert str(port) in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_two_daemons_on_one_socket_are_refused(home: Home) -> None:
    (first,) = home.start("first")
    result = _run_daemon(first.directory / "tpid.toml")
    assert result.returncode == 1
    assert "Another tpid already answers" in result.stderr
    assert first.status()["cluster"]["devices"][0]["profile"]["name"] == "first"


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("context_tokns = 5", "did you mean context_tokens?"),
        ("port = 99999", "port"),
        ('role = "boss"', "role"),
        ("port = ", "TOML"),
    ],
)
def test_a_bad_configuration_is_one_sentence(tmp_path: Path, line: str, word: str) -> None:
    config = tmp_path / "tpid.toml"
    config.write_text(line)
    result = _run_daemon(config)
    assert result.returncode == os.EX_CONFIG  # a service does not start again for that
    assert word in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_another_version_of_the_protocol_is_refused_and_named(home: Home) -> None:
    """A peer of version 1, by hand: it sees our version, and our status tells of it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        daemon = home.launch("user", peers=[address])
        peer, _ = server.accept()
        with peer:
            ours = peer.recv(12)
            assert ours[:3] == b"TP\x02"
            peer.sendall(b"TP\x01\x02" + bytes(8))
            status = daemon.wait("the refusal", lambda status: status["cluster"]["failed"])
    failed = status["cluster"]["failed"][0]
    assert failed["code"] == "version_mismatch"
    assert failed["address"] == address
    assert "version 1" in failed["reason"]
    assert daemon.process.poll() is None


def test_sigterm_ends_a_daemon_in_order(model_home: Home) -> None:
    user, helper = model_home.start("user", "helper")
    user.chat("Hello.", max_tokens=4)
    for daemon in (helper, user):
        daemon.process.terminate()
        assert daemon.process.wait(20) == 0
        assert not daemon.socket_path.exists()
        assert "Traceback" not in daemon.log


def test_state_survives_a_restart(home: Home) -> None:
    (first,) = home.start("first")
    id = first.status()["cluster"]["devices"][0]["profile"]["id"]
    first.stop()
    (again,) = home.start("first")
    assert again.status()["cluster"]["devices"][0]["profile"]["id"] == id


def _body(prompt: str) -> dict[str, Any]:
    return {"model": "smollm2-135m", "messages": [{"role": "user", "content": prompt}], "temperature": 0}


def _run_daemon(config: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tpid.daemon.main", "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

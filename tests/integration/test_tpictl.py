"""The command line against real daemons: what a person or a script sees, and the exit code."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.download.hub import TOKEN, FakeHub

Home = Any  # of conftest.py


def test_a_model_is_imported_listed_and_chatted_with(home: Home, smollm2_gguf: Path) -> None:
    (user,) = home.start("user")
    imported = home.tpictl(user, "import", str(smollm2_gguf), "--name", "small", "--json")
    assert imported.returncode == 0, imported.stderr
    models = json.loads(home.tpictl(user, "models", "--json").stdout)["models"]
    assert [(model["name"], model["formats"]) for model in models] == [("small", ["w4"])]

    answer = home.tpictl(user, "chat", "small", "--temperature", "0", input="What is the capital of France?\n")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.strip() == "The capital of France is Paris."

    again = home.tpictl(user, "import", str(smollm2_gguf), "--name", "small")
    assert again.returncode == 1
    assert "small is there already" in again.stderr
    replaced = home.tpictl(user, "import", str(smollm2_gguf), "--name", "small", "--replace", "--json")
    assert replaced.returncode == 0, replaced.stderr


def test_a_model_from_its_pull_to_its_end(home: Home, smollm2_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (user,) = home.start("user")
    hub = FakeHub(repos={"a/Small-GGUF": {"Small-Q4_1.gguf": smollm2_gguf.read_bytes()}}, gated={"a/Small-GGUF"})
    hub.start()
    try:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        refused = home.tpictl(user, "pull", "hf.co/a/Small-GGUF:Q8_0")
        assert refused.stderr.endswith("tpictl: hf.co/a/Small-GGUF has no Q8_0. It has Q4_1.\n")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        pulled = home.tpictl(user, "pull", "hf.co/a/Small-GGUF", "--name", "small")
        assert pulled.stdout.startswith("small is ready ("), pulled.stderr
    finally:
        hub.stop()
    assert home.tpictl(user, "pull", "hf.co/a/Small-GGUF").stdout.startswith("small was here already (")
    assert home.tpictl(user, "cp", "small", "greedy").returncode == 0
    (directory,) = home.directory.rglob("greedy")
    (directory / "sampling.json").write_text('{"temperature": 0}')
    answer = home.tpictl(user, "run", "greedy", "What is the capital of France?")
    assert answer.stdout.strip() == "The capital of France is Paris.", answer.stderr
    assert json.loads(home.tpictl(user, "ps", "--json").stdout)["loaded"][0]["model"] == "greedy"
    assert home.tpictl(user, "rm", "greedy").returncode == 0
    assert user.status()["plan"] is None
    assert json.loads(home.tpictl(user, "unload", "--json").stdout) == {"unloaded": None}
    assert [model["name"] for model in json.loads(home.tpictl(user, "models", "--json").stdout)["models"]] == ["small"]


def test_a_model_imported_by_one_daemon_is_known_to_the_other(home: Home, smollm2_gguf: Path) -> None:
    user, _ = home.start("user", "helper")
    assert home.tpictl(user, "import", str(smollm2_gguf), "--name", "small").returncode == 0
    user.wait(
        "both to tell of the pack",
        lambda status: all(len(device["profile"]["packs"]) == 1 for device in status["cluster"]["devices"]),
    )
    answer = home.tpictl(user, "chat", "--json", "--temperature", "0", input="What is the capital of France?")
    assert answer.returncode == 0, answer.stderr
    assert len(json.loads(answer.stdout)["plan"]["ranks"]) == 2


def test_status_tells_of_devices_and_plan(model_home: Home) -> None:
    user, _ = model_home.start("user", "helper")
    user.chat("Hello.", max_tokens=8)
    text = model_home.tpictl(user, "status").stdout
    for word in ("user", "helper", "smollm2-135m", "KV groups", "tok/s"):
        assert word in text
    status = json.loads(model_home.tpictl(user, "status", "--json").stdout)
    assert len(status["plan"]["ranks"]) == 2
    assert status["last"]["completion_tokens"] == 8


def test_a_plan_is_told_without_loading(model_home: Home) -> None:
    user, _ = model_home.start("user", "helper")
    told = json.loads(model_home.tpictl(user, "plan", "smollm2-135m", "--json").stdout)
    assert len(told["plan"]["ranks"]) == len(told["forecast"]["ranks"]) == 2
    assert told["forecast"]["tpot_s"] > 0
    assert all(rank["streamed_bytes"] == 0 for rank in told["forecast"]["ranks"])
    assert "limited by" in model_home.tpictl(user, "plan", "smollm2-135m").stdout
    assert user.status()["plan"] is None

    tight = model_home.tpictl(user, "plan", "smollm2-135m", "--memory", "700M", "--context", "64", "--json")
    ranks = json.loads(tight.stdout)["forecast"]["ranks"]
    assert ranks[0]["memory_bytes"] <= ranks[0]["budget_bytes"] == 700_000_000
    impossible = model_home.tpictl(user, "plan", "smollm2-135m", "--memory", "100M")
    assert impossible.returncode == 1
    assert "missing on user" in impossible.stderr
    assert "memory_budget" in impossible.stderr


def test_a_flipped_byte_is_found_in_a_pack(home: Home, smollm2_gguf: Path) -> None:
    (user,) = home.start("user")
    assert home.tpictl(user, "import", str(smollm2_gguf), "--name", "small").returncode == 0
    sound = json.loads(home.tpictl(user, "verify", "--pack", "small", "--json").stdout)
    assert sound["faults"] == []
    (layer,) = home.directory.rglob("small/layers/007.safetensors")
    with layer.open("r+b") as file:
        file.seek(1 << 20)
        byte = file.read(1)
        file.seek(1 << 20)
        file.write(bytes([byte[0] ^ 0x10]))
    result = home.tpictl(user, "verify", "--pack", "small")
    assert result.returncode == 1
    assert f"{layer}: unit " in result.stderr
    assert "Import the model again." in result.stderr
    assert "small is damaged: 1 fault." in result.stderr


def test_bench_measures_answers_of_the_lengths_asked_for(model_home: Home) -> None:
    user, _ = model_home.start("user", "helper")
    result = model_home.tpictl(user, "bench", "--prompt", "200", "--answer", "40", "--runs", "2", "--json")
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert len(told["plan"]["ranks"]) == 2
    for run in told["runs"]:
        assert abs(run["prompt_tokens"] - 200) <= 10
        assert run["answer_tokens"] == 40
        assert run["cached_tokens"] < 40  # what the chat template puts before every prompt
    assert told["decode_tokens_s"]["lowest"] > 0


@pytest.mark.parametrize(
    ("arguments", "given", "word"),
    [
        (("chat", "nothing"), "Hello.", "nothing"),
        (("chat", "smollm2-135m"), "word " * 20000, "context"),
        (("chat", "smollm2-135m", "--top-p", "7"), "Hello.", "top_p"),
        (("import", "/nowhere.gguf"), "", "/nowhere.gguf"),
        (("import", "/etc"), "", "/etc"),
        (("import", "/etc/passwd", "--name", "Not A Name"), "", "Not A Name"),
        (("pull", "gpt-5"), "", "smollm2-135m"),
        (("verify", "--pack", "nothing"), "", "nothing"),
        (("plan", "nothing"), "", "nothing"),
    ],
)
def test_errors_are_one_clear_sentence(
    shared_daemon: Any, arguments: tuple[str, ...], given: str, word: str, tpictl: Any
) -> None:
    result = tpictl(shared_daemon, *arguments, input=given)
    assert result.returncode == 1
    assert result.stdout == ""
    assert word in result.stderr
    assert result.stderr.startswith("tpictl: ")
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_daemon_that_is_not_running_is_one_sentence(home: Home) -> None:
    (daemon,) = home.start("user")
    daemon.stop()
    for command in (("status",), ("models",), ("chat", "x"), ("pull", "smollm2-135m")):
        result = home.tpictl(daemon, *command, input="Hello.")
        assert result.returncode == 1
        assert str(daemon.socket_path) in result.stderr
        assert "Start it" in result.stderr

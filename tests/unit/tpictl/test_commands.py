"""The commands as a shell sees them: real processes, pipes and exit codes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tpictl.main import app
from tpid import __version__

TIMEOUT_S = 60.0

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def environment(daemon: Any, short_directory: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return kept | {"TPID_SOCKET": str(daemon.path), "XDG_STATE_HOME": str(short_directory), "COLUMNS": "100"}


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    def start(*arguments: str, stdin: bytes = b"") -> "subprocess.CompletedProcess[str]":
        result = subprocess.run(
            [sys.executable, "-m", "tpictl.main", *arguments],
            input=stdin,
            capture_output=True,
            env=environment,
            timeout=TIMEOUT_S,
            check=False,
        )
        return subprocess.CompletedProcess(
            result.args, result.returncode, result.stdout.decode(), result.stderr.decode()
        )

    return start


def test_pipe_gets_exactly_the_answer(daemon: Any, run: Run) -> None:
    result = run("chat", stdin="Grüß Gott\nzweite Zeile\n\n".encode())
    assert (result.returncode, result.stdout, result.stderr) == (0, "Hellö, world.", "")
    assert daemon.body("/tpid/load") == {"model": "smollm2-135m"}
    body = daemon.body("/v1/chat/completions")
    assert body["messages"] == [{"role": "user", "content": "Grüß Gott\nzweite Zeile"}]
    assert set(body) == {"model", "messages", "stream", "stream_options"}


def test_stats_come_after_the_answer_and_beside_it(run: Run) -> None:
    result = run("chat", "smollm2-135m", "--stats", stdin=b"Hi")
    assert (result.returncode, result.stdout) == (0, "Hellö, world.")
    assert "   1  desktop  2 of 3 (1-2)  30 of 48 (18-47)  200 MB" in result.stderr
    assert "phone is left out: it does not have this model" in result.stderr
    assert "TTFT 431 ms · TPOT 42 ms · 23.8 tok/s · 3 tokens · prompt 34 tokens (20 cached)" in result.stderr


def test_stats_show_the_plan_that_the_answer_ended_with(daemon: Any, run: Run) -> None:
    daemon.status["plan"] = {**daemon.plan, "term": 8}
    assert "term 8" in run("chat", "--stats", stdin=b"Hi").stderr


def test_options_reach_the_daemon(daemon: Any, run: Run) -> None:
    options = ["--temperature", "0.2", "--top-k", "40", "--top-p", "0.9", "--min-p", "0.05"]
    options += ["--repetition-penalty", "1.1", "--seed", "7", "--max-tokens", "64", "--stop", "a", "--stop", "b"]
    assert run("chat", "other", "--system", "Be brief.", *options, stdin=b"Hi").returncode == 0
    assert daemon.body("/tpid/load") == {"model": "other"}
    assert daemon.body("/v1/chat/completions") == {
        "model": "other",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "temperature": 0.2,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
        "seed": 7,
        "max_tokens": 64,
        "stop": ["a", "b"],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_chat_as_json(daemon: Any, run: Run) -> None:
    result = run("chat", "--json", stdin=b"Hi")
    answer = json.loads(result.stdout)
    assert (answer["model"], answer["answer"], answer["finish_reason"]) == ("smollm2-135m", "Hellö, world.", "stop")
    assert answer["usage"]["completion_tokens"] == 3
    assert answer["timings"] == {"ttft_s": 0.431, "tpot_s": 0.042, "tokens_s": 23.8}
    assert answer["plan"] == daemon.plan


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        (b"", "Standard input holds no prompt."),
        (b" \n", "Standard input holds no prompt."),
        (b"a\xffb", "The prompt on standard input is not UTF-8 at byte 1."),
        (b"x" * ((4 << 20) + 1), "The prompt on standard input has more than 4194304 bytes."),
    ],
)
def test_prompts_that_are_none(run: Run, stdin: bytes, message: str) -> None:
    result = run("chat", stdin=stdin)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"tpictl: {message}")


def test_no_model_and_several(daemon: Any, run: Run) -> None:
    sound = daemon.models["models"][0]
    daemon.models["models"] = [{"name": "broken", "damaged": "cut short"}]
    assert run("chat", stdin=b"Hi").stderr == (
        "tpictl: This device has no model yet. Fetch one: tpictl pull smollm2-135m\n"
    )
    daemon.models["models"] = [sound | {"name": "a"}, sound | {"name": "b"}]
    assert run("chat", stdin=b"Hi").stderr == "tpictl: This device has 2 models: a, b. Say which: tpictl chat a\n"


def test_an_answer_that_breaks_off_is_an_error_after_what_came(daemon: Any, run: Run) -> None:
    daemon.fail_after = 2
    result = run("chat", stdin=b"Hi")
    assert (result.returncode, result.stdout) == (1, "Hellö, ")
    assert result.stderr == "tpictl: desktop is gone. Switch it on.\n"


def test_errors_as_json(daemon: Any, run: Run) -> None:
    daemon.fail_after = 0
    result = run("chat", "--json", stdin=b"Hi")
    assert (result.returncode, result.stderr) == (1, "")
    assert json.loads(result.stdout) == {
        "error": {"code": "device_lost", "message": "desktop is gone.", "hint": "Switch it on."}
    }


def test_errors_cannot_speak_to_the_terminal(daemon: Any, run: Run) -> None:
    daemon.refusal = (500, b'{"error": {"code": "x", "message": "a\\u001b[2Jb\\nc"}}')
    assert run("status").stderr == "tpictl: a�[2Jb�c\n"


def test_no_daemon(run: Run) -> None:
    result = run("status", "--socket", "/nowhere/x.sock")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == ("tpictl: No daemon runs here: there is no socket /nowhere/x.sock. Start it with: tpid\n")
    as_json = json.loads(run("models", "--json", "--socket", "/nowhere/x.sock").stdout)
    assert as_json["error"]["code"] == "daemon_unreachable"


@pytest.mark.parametrize("arguments", [["status"], ["models"], ["chat"]])
def test_a_reader_that_went_away_is_no_fault(environment: dict[str, str], arguments: list[str]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as stdout:
        command = [sys.executable, "-m", "tpictl.main", *arguments]
        result = subprocess.run(
            command, input=b"Hi", stdout=stdout, stderr=subprocess.PIPE, env=environment, timeout=TIMEOUT_S, check=False
        )
    assert (result.returncode, result.stderr) == (141, b"")


def test_ctrl_c_ends_an_answer_in_a_pipe_and_the_work_in_the_daemon(daemon: Any, environment: dict[str, str]) -> None:
    daemon.hang_after = 2
    command = [sys.executable, "-m", "tpictl.main", "chat"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment) as process:
        assert process.stdin is not None
        process.stdin.write(b"Hi")
        process.stdin.close()
        assert process.stdout is not None
        assert process.stdout.read(len("Hellö, ".encode())) == "Hellö, ".encode()
        assert daemon.hanging.wait(TIMEOUT_S)
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert daemon.client_gone.wait(TIMEOUT_S)


def test_ctrl_c_in_an_import_tells_how_to_go_on(
    daemon: Any, environment: dict[str, str], short_directory: Path
) -> None:
    daemon.import_lines = [{"stage": "convert", "done_bytes": 0, "total_bytes": 2 * 10**6}] * 2
    daemon.hang_after = 1
    source = short_directory / "a model.gguf"
    source.touch()
    command = [sys.executable, "-m", "tpictl.main", "import", str(source), "--format", "w8"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment) as process:
        assert daemon.hanging.wait(TIMEOUT_S)
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 130
        assert process.stderr is not None
        told = process.stderr.read().decode()
    assert told.endswith(f"The same command goes on with what is done: tpictl import '{source}' --format w8\n")
    assert daemon.client_gone.wait(TIMEOUT_S)


def test_import(daemon: Any, run: Run, short_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = [("convert", 0), ("convert", 2 * 10**6), ("verify", 2 * 10**6)]
    daemon.import_lines = [{"stage": stage, "done_bytes": done, "total_bytes": 2 * 10**6} for stage, done in stages]
    daemon.import_lines.append(
        {"pack": {"name": "m", "id": "0", "size_bytes": 3 * 10**6, "published_bytes": 29 * 10**5}}
    )
    monkeypatch.chdir(short_directory)
    Path("m.gguf").touch()
    result = run("import", "m.gguf", "--name", "m", "--replace")
    assert (result.returncode, result.stdout) == (
        0,
        "m is ready (3.00 MB, 2.90 MB as published). Talk to it: tpictl chat m\n",
    )
    assert result.stderr == "convert: 2.00 MB\nverify: 2.00 MB\n"
    expected = {"path": str(short_directory / "m.gguf"), "name": "m", "format": None, "replace": True}
    assert daemon.body("/tpid/import") == expected


def test_an_import_says_what_it_had_to_guess(daemon: Any, run: Run, short_directory: Path) -> None:
    note = "which tokens are special is guessed: " + "<|im_start|> " * 12 + "\x1b[2J"
    pack = {"name": "m", "id": "0", "size_bytes": 3 << 20}
    daemon.import_lines = [{"note": note}, {"stage": "verify", "done_bytes": 1, "total_bytes": 1}, {"pack": pack}]
    (short_directory / "m.gguf").touch()
    result = run("import", str(short_directory / "m.gguf"), "--json")
    assert json.loads(result.stdout) == {"pack": pack}
    assert result.stderr.splitlines()[0].startswith("Note: which tokens are special is guessed: <|im_start|> ")
    assert result.stderr.splitlines()[1].startswith("verify")
    assert "\x1b" not in result.stderr


def test_import_of_nothing(run: Run) -> None:
    assert run("import", "none.gguf").stderr == "tpictl: There is no file or directory none.gguf.\n"
    for path, hint in {
        "https://hf.co/Qwen/Qwen3-8B-GGUF": "tpictl pull https://hf.co/Qwen/Qwen3-8B-GGUF.",
        "Qwen/Qwen3-8B-GGUF:Q4_K_M": "tpictl pull Qwen/Qwen3-8B-GGUF:Q4_K_M.",
        "smollm2-135m": "tpictl pull smollm2-135m",
    }.items():
        assert hint in run("import", path).stderr


def test_pull_as_json(daemon: Any, run: Run) -> None:
    pack = {"name": "smollm2-135m", "id": "0", "size_bytes": 3 * 10**6}
    daemon.import_lines = [{"stage": "fetch", "done_bytes": 0, "total_bytes": 1}, {"pack": pack}]
    result = run("pull", "smollm2-135m", "--format", "f16", "--json")
    assert json.loads(result.stdout) == {"pack": pack}
    expected = {"model": "smollm2-135m", "name": None, "format": "f16", "replace": False}
    assert daemon.body("/tpid/pull") == expected


def test_pull_takes_the_hub_and_the_token_of_who_types_it(
    daemon: Any, run: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    daemon.import_lines = [{"pack": {"name": "m", "id": "0", "size_bytes": 3 * 10**6, "already": True}}]
    environment |= {"HF_ENDPOINT": "https://mirror.example", "HF_TOKEN": "hf_secret"}
    result = run("pull", "hf.co/a/b:Q8_0", "--name", "m")
    assert result.stdout == "m was here already (3.00 MB). Talk to it: tpictl chat m\n"
    assert "hf_secret" not in result.stderr
    body = daemon.body("/tpid/pull")
    assert body["endpoint"] == "https://mirror.example"
    assert (body["token"], body["name"], body["model"]) == ("hf_secret", "m", "hf.co/a/b:Q8_0")
    (tmp_path / "x.gguf").touch()
    assert "tpictl import" in run("pull", str(tmp_path / "x.gguf")).stderr


def test_status_and_models_as_json_are_what_the_daemon_said(daemon: Any, run: Run) -> None:
    assert json.loads(run("status", "--json").stdout) == daemon.status
    assert json.loads(run("models", "--json").stdout) == daemon.models


def test_status_and_models(run: Run) -> None:
    assert "coordinator  laptop (this device), term 7" in run("status").stdout
    assert "smollm2-135m  llama" in run("models").stdout


def test_plan(daemon: Any, run: Run) -> None:
    result = run("plan", "smollm2-135m", "--memory", "300M", "--context", "512")
    assert (result.returncode, result.stderr) == (0, "")
    assert "limited by the disk of laptop" in result.stdout
    assert daemon.body("/tpid/plan") == {"model": "smollm2-135m", "memory": "300M", "context_tokens": 512}
    assert json.loads(run("plan", "smollm2-135m", "--json").stdout) == daemon.preview
    assert daemon.body("/tpid/plan") == {"model": "smollm2-135m", "memory": None, "context_tokens": None}


FAULT = {"code": "pack", "message": "/m/layers/000.safetensors: unit 3 of ffn.units is not", "hint": "Import it."}


def test_verify(daemon: Any, run: Run) -> None:
    progress = [{"stage": "verify", "done_bytes": done * 10**6, "total_bytes": 2 * 10**6} for done in (1, 2)]
    end = {"name": "m", "checked_bytes": 2 * 10**6, "n_faults": 0}
    daemon.verify_lines = [*progress, {"verified": end}]
    result = run("verify", "--pack", "m")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "m is sound: 2.00 MB are what was imported.\n"
    assert daemon.body("/tpid/verify") == {"model": "m"}
    assert json.loads(run("verify", "--pack", "m", "--json").stdout) == {"verified": end, "faults": []}


def test_verify_names_each_fault(daemon: Any, run: Run) -> None:
    end = {"name": "m", "checked_bytes": 2 * 10**6, "n_faults": 2}
    daemon.verify_lines = [{"fault": FAULT}, {"fault": FAULT}, {"verified": end}]
    result = run("verify", "--pack", "m")
    assert (result.returncode, result.stdout) == (1, "")
    sentence = "tpictl: /m/layers/000.safetensors: unit 3 of ffn.units is not Import it.\n"
    assert result.stderr == sentence * 2 + "m is damaged: 2 faults.\n"
    as_json = run("verify", "--pack", "m", "--json")
    assert (as_json.returncode, as_json.stderr) == (1, "")
    assert json.loads(as_json.stdout) == {"verified": end, "faults": [FAULT, FAULT]}


def test_ctrl_c_ends_a_verification_and_its_work_in_the_daemon(daemon: Any, environment: dict[str, str]) -> None:
    daemon.verify_lines = [{"stage": "verify", "done_bytes": 1, "total_bytes": 2}] * 2
    daemon.hang_after = 1
    with subprocess.Popen([sys.executable, "-m", "tpictl.main", "verify", "--pack", "m"], env=environment) as process:
        assert daemon.hanging.wait(TIMEOUT_S)
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 130
    assert daemon.client_gone.wait(TIMEOUT_S)


def test_watching_goes_on_until_ctrl_c(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "tpictl.main", "status", "--watch", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["busy"] is True
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 0


def test_keys(daemon: Any, run: Run) -> None:
    assert run("key", "list").stdout == "There is no key yet: tpictl key create NAME\n"
    result = run("key", "create", "phone")
    assert (result.returncode, result.stdout) == (0, "tpid-secret\n")
    assert daemon.body("/tpid/keys/create") == {"name": "phone"}
    assert json.loads(run("key", "create", "phone", "--json").stdout) == {"name": "phone", "key": "tpid-secret"}
    daemon.keys = ["phone", "\x1b[2Jtablet"]
    listed = run("key", "list").stdout
    assert "phone" in listed
    assert "tablet" in listed
    assert "\x1b" not in listed
    assert len(json.loads(run("key", "list", "--json").stdout)["keys"]) == 2
    assert run("key", "revoke", "phone").stdout == "phone opens nothing any more.\n"
    assert daemon.body("/tpid/keys/revoke") == {"name": "phone"}


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"tpictl {__version__}\n")


@pytest.mark.parametrize(
    "command",
    [
        *("chat", "status", "bench", "models", "pull", "import", "plan", "verify"),
        *("key create", "key list", "key revoke", "show", "cp", "rm", "run", "ps", "load", "unload", "version"),
    ],
)
def test_help_has_an_example(command: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert f"    tpictl {command}" in result.stdout
    assert "--socket" in result.stdout
    assert "--json" in result.stdout


def test_wrong_usage() -> None:
    assert CliRunner().invoke(app, ["chat", "--temperature", "warm"]).exit_code == 2
    assert CliRunner().invoke(app, ["chatt"]).exit_code == 2


def test_fast_start() -> None:
    """What --help imports, and what no command may."""
    code = "import sys, tpictl.main; print(*sys.modules)"
    started = set(subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert not started & {"rich", "prompt_toolkit", "asyncio"}
    commands = ("bench", "chat_loop", "status", "importing", "models", "plan", "verify", "keys")
    code = f"import sys, tpictl.main, {', '.join(f'tpictl.commands.{name}' for name in commands)}; print(*sys.modules)"
    everything = set(subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert not everything & {"torch", "numpy", "pydantic", "aiohttp"}
    assert {name for name in everything if name.startswith("tpid.")} == {"tpid.errors", "tpid.size"}

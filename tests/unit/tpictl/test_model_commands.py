"""Commands about models that are here and loaded, in this process: a daemon that follows a script answers."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from tpictl.main import app
from tpid import __version__

MB = 10**6
SHOWN = {
    **{"name": "llama-1b", "id": "ab" * 32, "architecture": "llama", "parameters": 1_235_814_400, "layers": 16},
    **{"hidden_size": 2048, "heads": 32, "kv_heads": 8, "vocabulary": 128_256, "context_tokens": 131_072},
    **{"formats": ["q4_k", "q6_k"], "size_bytes": 820 * MB, "source": "hf.co/a/b:Q4_K_M", "eos_ids": [2]},
    **{"sampling": {"temperature": 0.6, "top_p": 0.9}, "chat_template": "{{ messages }}\x1b[2J"},
}

Run = Callable[..., Any]


@pytest.fixture
def run(daemon: Any) -> Run:
    def start(*arguments: str, stdin: str = "") -> Any:
        return CliRunner().invoke(app, arguments, input=stdin, env={"TPID_SOCKET": str(daemon.path), "COLUMNS": "100"})

    return start


def shown_lines(result: Any) -> list[str]:
    return [line.rstrip() for line in result.stdout.splitlines()]


def test_show(daemon: Any, run: Run) -> None:
    daemon.shown = SHOWN
    lines = shown_lines(run("show", "llama-1b"))
    assert daemon.body("/tpid/models/show") == {"model": "llama-1b"}
    assert [line.split(maxsplit=1) for line in lines[:5]] == [
        ["model", "llama-1b"],
        ["id", "abababababab"],
        ["source", "hf.co/a/b:Q4_K_M"],
        ["architecture", "llama"],
        ["weights", "1.24 billion, in q4_k, q6_k"],
    ]
    assert any(line.split() == ["sampling", "temperature", "0.6,", "top_p", "0.9"] for line in lines)
    assert json.loads(run("show", "llama-1b", "--json").stdout) == SHOWN
    assert run("show", "llama-1b", "--template").stdout == "{{ messages }}\x1b[2J\n"  # not on a terminal
    daemon.shown = SHOWN | {"chat_template": None, "sampling": {}, "source": None, "parameters": 135 * 10**6}
    shown = run("show", "llama-1b").stdout
    assert "imported from a file" in shown
    assert "135 million" in shown
    result = run("show", "llama-1b", "--template")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "has no chat template" in result.stderr


def test_cp_and_rm(daemon: Any, run: Run) -> None:
    assert run("cp", "llama-1b", "mine").stdout == "mine is the same as llama-1b. Talk to it: tpictl chat mine\n"
    assert daemon.body("/tpid/models/copy") == {"model": "llama-1b", "name": "mine"}
    assert run("rm", "mine").stdout == "mine is gone: 98.0 MB are free again.\n"
    assert daemon.body("/tpid/models/remove") == {"model": "mine"}
    assert json.loads(run("rm", "hf.co/a/b", "--json").stdout) == {"name": "hf.co/a/b", "freed_bytes": 98 * MB}


def test_ps_shows_what_it_coordinates_and_what_it_holds_for_others(daemon: Any, run: Run) -> None:
    use = {
        "resident_bytes": 60 * MB,
        "window_bytes": 0,
        "streamed_bytes": 5 * MB,
        "disk_bytes_s": None,
        "stall_s": None,
    }
    daemon.status["weights"] = {daemon.plan["ranks"][0]["device"]: use}
    daemon.status["plan"] = daemon.plan
    daemon.status["holding"] = {"model": "other", "rank": 1, "coordinator": "desktop", "weights": use}
    assert shown_lines(run("ps")) == [
        "model         device   rank  resident  streams  for",
        "smollm2-135m  laptop      0   60.0 MB  5.00 MB  laptop",
        "smollm2-135m  desktop     1         -        -  laptop",
        "other         laptop      1   60.0 MB  5.00 MB  desktop",
    ]
    loaded = json.loads(run("ps", "--json").stdout)["loaded"]
    assert [row["device"] for row in loaded] == ["laptop", "desktop", "laptop"]
    daemon.status |= {"plan": None, "holding": None}
    assert run("ps").stdout == "No model is loaded. The first request loads one, or tpictl load MODEL.\n"


def test_load_and_unload(daemon: Any, run: Run) -> None:
    result = run("load", "smollm2-135m")
    assert daemon.body("/tpid/load") == {"model": "smollm2-135m"}
    assert "smollm2-135m on 2 devices" in result.stdout
    assert json.loads(run("load", "smollm2-135m", "--json").stdout)["plan"] == daemon.plan
    assert run("unload").stdout == "No model was loaded from here.\n"
    daemon.unloaded = "smollm2-135m"
    assert run("unload").stdout == "smollm2-135m is in no memory any more.\n"


def test_run_prints_one_answer_and_nothing_else(daemon: Any, run: Run) -> None:
    result = run("run", "smollm2-135m", "Why", "so?", "--system", "Be brief.", "--temperature", "0")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Hellö, world.", "")
    body = daemon.body("/v1/chat/completions")
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why so?"}]
    assert body["temperature"] == 0
    assert run("run", "m", stdin="From a file\n").stdout == "Hellö, world."
    assert daemon.body("/v1/chat/completions")["messages"] == [{"role": "user", "content": "From a file"}]
    answer = json.loads(run("run", "m", "Hi", "--json").stdout)
    assert (answer["answer"], answer["finish_reason"]) == ("Hellö, world.", "stop")


def test_run_without_a_prompt(run: Run) -> None:
    result = run("run", "m", stdin=" \n")
    assert result.exit_code == 1
    assert "prompt" in result.stderr


def test_version_of_all_devices(daemon: Any, run: Run) -> None:
    lines = run("version").stdout.splitlines()
    assert lines[0] == f"tpictl {__version__}"
    assert lines[1].endswith(" on laptop")
    assert json.loads(run("version", "--json").stdout)["devices"].keys() == {"laptop", "desktop", "phone"}
    daemon.path = daemon.path.with_name("none.sock")
    result = run("version")
    assert (result.exit_code, result.stdout) == (0, f"tpictl {__version__}\nNo daemon runs here.\n")

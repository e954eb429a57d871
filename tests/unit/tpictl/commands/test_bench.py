"""`tpictl bench` against a daemon that follows a script: what it asks, what it makes of the answers."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tpictl.client.answering import Answer
from tpictl.client.answers import PromptDetails, Timings, Usage
from tpictl.commands.bench import run_of, spread_of
from tpictl.commands.bench_prompt import PromptLength, bench_prompt
from tpid.errors import RemoteProtocolError

TIMEOUT_S = 60.0
CHAT = "/v1/chat/completions"


@pytest.fixture
def command(daemon: Any, short_directory: Path) -> dict[str, Any]:
    """Arguments for subprocess."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment = kept | {"TPID_SOCKET": str(daemon.path), "XDG_STATE_HOME": str(short_directory), "COLUMNS": "100"}
    return {"args": [sys.executable, "-m", "tpictl.main", "bench"], "env": environment}


def run(command: dict[str, Any], *arguments: str) -> "subprocess.CompletedProcess[str]":
    args = [*command["args"], *arguments]
    return subprocess.run(
        args,
        capture_output=True,
        text=True,
        env=command["env"],
        timeout=TIMEOUT_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_each_run_is_shown_and_at_the_end_the_plan_and_the_medians(daemon: Any, command: dict[str, Any]) -> None:
    daemon.tokens_a_word = 2
    result = run(command, "--prompt", "210", "--answer", "3", "--runs", "2")
    assert result.returncode == 0, result.stderr
    line = "TTFT 431 ms · TPOT 42 ms · 23.8 tok/s · 3 tokens · prompt 210 tokens (20 cached)"
    assert result.stderr == f"1 of 2: {line}\n2 of 2: {line}\n"
    lines = [text.rstrip() for text in result.stdout.splitlines()]
    assert lines[0].startswith("smollm2-135m on 2 devices")
    assert any("desktop" in text and "2 of 3 (1-2)" in text for text in lines)
    assert "phone is left out: it does not have this model" in lines
    assert "prompt 210 tokens, answer 3 tokens, 2 times" in lines
    assert lines[-3:] == [
        "TTFT         431 ms      431 ms      431 ms",
        "prefill   441 tok/s   441 tok/s   441 tok/s",  # 190 computed in 0.431 s
        "decode   23.8 tok/s  23.8 tok/s  23.8 tok/s",
    ]


def test_no_prompt_begins_like_another_and_no_answer_ends_by_itself(daemon: Any, command: dict[str, Any]) -> None:
    assert run(command, "--answer", "7", "--runs", "3").returncode == 0
    bodies = [body for target, body in daemon.requests if target == CHAT]
    prompts = [body["messages"][0]["content"] for body in bodies]
    assert len({prompt.split()[0] for prompt in prompts}) == len(prompts) == 5  # two of them find out the length
    for body in bodies[2:]:
        assert (body["max_tokens"], body["ignore_eos"], body["temperature"]) == (7, True, 0)


def test_as_json_everything_is_told(daemon: Any, command: dict[str, Any]) -> None:
    result = run(command, "other", "--runs", "1", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    told = json.loads(result.stdout)
    assert told["model"] == "other"
    assert told["plan"] == daemon.plan
    assert told["ttft_s"] == {"median": 0.431, "lowest": 0.431, "highest": 0.431}
    assert told["decode_tokens_s"]["median"] == 23.8
    assert told["runs"] == [
        {
            "prompt_tokens": 34,
            "cached_tokens": 20,
            "answer_tokens": 3,
            "ttft_s": 0.431,
            "prefill_tokens_s": pytest.approx(14 / 0.431),
            "decode_tokens_s": 23.8,
        }
    ]


@pytest.mark.parametrize(("chat", "n_runs"), [(0, None), (2, None), (4, 2)])
def test_ctrl_c_shows_what_was_measured_until_then(
    daemon: Any, command: dict[str, Any], chat: int, n_runs: int | None
) -> None:
    daemon.hang_in_chat, daemon.hang_after = chat, 1
    pipe = subprocess.PIPE
    with subprocess.Popen([*command["args"], "--json"], stdout=pipe, stderr=pipe, env=command["env"]) as process:
        assert daemon.hanging.wait(TIMEOUT_S)
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 130
        assert process.stdout is not None
        assert process.stderr is not None
        told, complaints = process.stdout.read(), process.stderr.read()
    assert complaints == b""
    assert (len(json.loads(told)["runs"]) if told else None) == n_runs
    assert daemon.client_gone.wait(TIMEOUT_S)


def test_errors_are_one_sentence(daemon: Any, command: dict[str, Any]) -> None:
    daemon.fail_after = 1
    result = run(command)
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "tpictl: desktop is gone. Switch it on.\n")
    sound = daemon.models["models"][0]
    daemon.models["models"] = [sound | {"name": "a"}, sound | {"name": "b"}]
    assert run(command).stderr == "tpictl: This device has 2 models: a, b. Say which: tpictl bench a\n"
    assert run(command, "--answer", "1").returncode == 2


@pytest.mark.parametrize(("fixed", "a_word"), [(0, 1), (27, 1.6), (300, 3)])
def test_a_prompt_gets_the_length_that_is_wanted(fixed: int, a_word: float) -> None:
    def count(prompt: str) -> int:
        return fixed + round(a_word * len(prompt.split()))

    length = PromptLength.probe(count)
    for wanted in (512, 2000):
        assert abs(count(bench_prompt(length.words_for(wanted), seed=1)) - wanted) <= 0.02 * wanted
    assert length.words_for(0) == 1


def test_a_single_token_has_no_rate() -> None:
    usage = Usage(12, 1, PromptDetails(2))
    one = run_of(Answer("x", "length", usage, Timings(0.5, None, None)))
    assert (one.prefill_tokens_s, one.decode_tokens_s) == (20.0, None)
    with pytest.raises(RemoteProtocolError):
        run_of(Answer("x", "length", usage, None))


def test_a_spread_is_of_all_runs() -> None:
    spread = spread_of([3.0, 1.0, 2.0, 10.0])
    assert (spread.median, spread.lowest, spread.highest) == (2.5, 1.0, 10.0)

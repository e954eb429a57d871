"""Decode and prefill beside llama.cpp: our side really runs, the other is a script that notes what it is told."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tpid.compute.native.library import load
from tpid.model.gguf.source import GgufSource
from tpid.model.weights import Format
from tpid.pack.reader import Pack
from tpid.pack.writer import import_pack

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 600,
    "max_position_embeddings": 512,
}
FAKE_LLAMA_BENCH = """#!{python}
import json, os, sys
with open({log!r}, "a") as log:
    log.write(json.dumps([sorted(os.sched_getaffinity(0)), sys.argv[1:]]) + "\\n")
fast = "on" in sys.argv and "none" in sys.argv
print(json.dumps([{{"avg_ts": 8000.0 if fast else 4000.0}}]))
"""

Script = Callable[..., "subprocess.CompletedProcess[str]"]

needs_native = pytest.mark.skipif(load() is None, reason="the native kernels are not built")


@pytest.fixture
def shape(tmp_path: Path) -> Path:
    path = tmp_path / "tiny" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(CONFIG))
    return path


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Runs one of benchmarks/ in a directory of its own."""

    def run(name: str, *arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, str(BENCHMARKS / name), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, **options)

    return run


@pytest.mark.parametrize(("type", "format"), [("Q4_0", Format.W4S), ("Q8_0", Format.W8), ("F16", Format.F16)])
def test_a_random_gguf_is_one_that_we_import(
    shape: Path, script: Script, tmp_path: Path, type: str, format: Format
) -> None:
    made = script("random_gguf.py", str(shape), "--type", type, "--to", str(tmp_path))
    assert made.returncode == 0, made.stderr
    with GgufSource(tmp_path / f"tiny-{type.lower()}.gguf") as source:
        assert (source.spec.hidden_size, source.spec.n_layers, source.spec.vocab_size) == (64, 2, 600)
        pack = import_pack(source, tmp_path / "pack")
    formats = {*pack.manifest.layers[0].attn.formats.values(), *pack.manifest.layers[1].ffn.formats.values()}
    assert formats == {pack.manifest.embed.format} == {format}


@needs_native
def test_our_side_answers_each_test_with_its_speed(shape: Path, script: Script, tmp_path: Path) -> None:
    assert script("make_model.py", str(shape), "--to", str(tmp_path / "models")).returncode == 0
    tests = [("prefill", 200, 0), ("decode", 4, 0), ("decode", 4, 300), ("prefill", 8, 300), ("decode", 4, 300)]
    lines = [json.dumps({"kind": kind, "tokens": tokens, "depth": depth}) for kind, tokens, depth in tests]
    done = script("alone.py", str(tmp_path / "models" / "tiny-w4"), input="".join(f"{line}\n" for line in lines))
    assert done.returncode == 0, done.stderr
    ready, *answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert ready == {"ready": "tiny-w4"}
    assert len(answers) == len(tests)
    assert all(answer["tokens_s"] > 0 for answer in answers)


@needs_native
def test_a_row_compares_on_the_same_file_and_cores_with_the_fastest_variant(
    shape: Path, script: Script, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    tool = tmp_path / "llama" / "bin" / "llama-bench"
    tool.parent.mkdir(parents=True)
    tool.write_text(FAKE_LLAMA_BENCH.format(python=sys.executable, log=str(log)))
    tool.chmod(0o755)
    gguf = tmp_path / ".bench" / "gguf" / "tinyllama-1.1b-q4_0.gguf"
    assert script("random_gguf.py", str(shape), "--to", str(tmp_path)).returncode == 0
    gguf.parent.mkdir(parents=True)
    (tmp_path / "tiny-q4_0.gguf").rename(gguf)

    environment = {**os.environ, "TPID_LLAMA_CPP": str(tmp_path / "llama")}
    options = ["--quick", "--json", "--rows", "*q4_0*1t"]
    done = script("decode.py", *options, env=environment)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    assert result["row"] == "tinyllama-1.1b-q4_0-decode24-1t"
    assert result["variant"] == "-fa on -lm none"
    assert (result["pairs"], result["theirs_tokens_s"]) == (3, 8000.0)
    assert result["lowest"] <= result["ratio"] <= result["highest"]
    assert result["ratio"] == pytest.approx(result["ours_tokens_s"] / 8000)
    assert Pack(tmp_path / ".bench" / "models" / "tinyllama-1.1b-q4_0-gguf").spec.hidden_size == 64

    calls = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(calls) == 4 + 3  # each variant, then the pairs
    for cores, arguments in calls:
        assert cores == [min(os.sched_getaffinity(0))]
        for option, value in {"-t": "1", "-d": "128", "-n": "24", "-p": "0", "-r": "1"}.items():
            assert arguments[arguments.index(option) + 1] == value
        assert arguments[arguments.index("-m") + 1].endswith("tinyllama-1.1b-q4_0.gguf")


def test_what_is_missing_for_a_build_is_one_sentence(script: Script, tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": str(tmp_path), "TPID_LLAMA_CPP": str(tmp_path / "llama")}
    done = script("llama_cpp.py", env=environment)
    assert done.returncode == 1
    assert done.stderr == "To build llama.cpp, CMake is needed: install it, then try again.\n"


def test_rows_can_be_listed_and_chosen(script: Script) -> None:
    listed = script("prefill.py", "--rows", "list").stdout.split()
    assert len(listed) == len(set(listed))
    assert sum("-q4_0-" in row for row in listed) == 4
    assert {row.split("-")[2] for row in listed} >= {"q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_xs"}
    assert "tinyllama-1.1b-q4_0-prefill512-2t" in listed

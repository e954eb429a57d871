"""The real import command on a real model, on pieces of it, and on what is none."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import pytest

from tests.unit.download.hub import TOKEN, FakeHub
from tpid.pack.reader import Pack
from tpid.pack.verify import verify_pack

COMMAND = [sys.executable, "-m", "tpid.pack.import_command"]
TIMEOUT_S = 60
MAX_PEAK_BYTES = 10**9
AT_ONCE = 2  # small machines run these tests as well

# Runs a command and prints what became of it. A process of its own: the kernel counts what a child had before exec,
# and that is all of its parent's memory.
_WATCH = f"""
import json, resource, subprocess, sys
run = subprocess.run(sys.argv[1:], capture_output=True, text=True, timeout={TIMEOUT_S})
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
print(json.dumps([run.returncode, run.stdout, run.stderr, peak]))
"""

# The command, but for a stop at a tenth of the work: a signal that is sent then meets an import, however busy this
# machine is.
_HOLD = """
import sys
from tpid.pack import import_command
report = import_command._Reporter.__call__
def report_and_wait(self, progress):
    holds = progress.stage == "convert" and progress.done_bytes * 10 >= progress.total_bytes
    if holds:
        self._last_s = 0.0  # it is told, however soon after the last time
        import_command._Reporter.__call__ = report
    report(self, progress)
    if holds:
        sys.stdin.read()
import_command._Reporter.__call__ = report_and_wait
sys.exit(import_command.main())
"""


@dataclass(frozen=True)
class Outcome:
    code: int
    lines: list[dict[str, Any]]
    stderr: str
    peak_bytes: int

    @property
    def error(self) -> dict[str, Any]:
        """The only error, well formed."""
        assert self.code == 1, self
        assert self.stderr == ""
        *progress, last = self.lines
        assert all(line.keys() == {"stage", "done_bytes", "total_bytes"} for line in progress)
        assert last.keys() == {"error"}
        error: dict[str, Any] = last["error"]
        assert error["message"].endswith(".")
        assert "\n" not in error["message"]
        assert error["hint"].endswith(".")
        return error


def run_import(path: Path | str, target: Path, *options: str) -> Outcome:
    """Ends in time, in bounded memory, by itself, with JSON and nothing else."""
    command = [*COMMAND, "--path", str(path), "--target", str(target), *options]
    watched = subprocess.run(
        [sys.executable, "-c", _WATCH, *command], capture_output=True, text=True, check=False, timeout=TIMEOUT_S + 20
    )
    assert watched.returncode == 0, watched.stderr
    code, stdout, stderr, peak_bytes = json.loads(watched.stdout)
    assert code in (0, 1), (code, stderr)
    assert peak_bytes < MAX_PEAK_BYTES
    return Outcome(code, [json.loads(line) for line in stdout.splitlines()], stderr, peak_bytes)


def in_parallel(work: Callable[[int], None], items: Iterable[int]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(work, items):
            pass


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    path = tmp_path / "models"
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def header_bytes(smollm2_gguf: Path) -> int:
    """Where the tensors' data start."""
    return int(gguf.GGUFReader(smollm2_gguf).data_offset)


@pytest.fixture(scope="module")
def one_layer_gguf(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 without all layers but the first: the same header but for that, and quick to import."""
    reader = gguf.GGUFReader(smollm2_gguf)
    path = tmp_path_factory.mktemp("small") / "one-layer.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value = 1 if key == "llama.block_count" else field.contents()
        writer.add_key_value(key, value, field.types[0], field.types[1] if len(field.types) > 1 else None)
    for tensor in reader.tensors:
        if not tensor.name.startswith("blk.") or tensor.name.startswith("blk.0."):
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_model_comes_through(smollm2_gguf: Path, smollm2: Pack, models: Path) -> None:
    outcome = run_import(smollm2_gguf, models / "smollm2")
    assert outcome.code == 0
    assert outcome.stderr == ""
    *progress, last = outcome.lines
    assert [line["stage"] for line in progress] == sorted(line["stage"] for line in progress)
    assert progress[-1]["done_bytes"] == progress[-1]["total_bytes"]
    pack = Pack(models / "smollm2")
    sizes = {"size_bytes": pack.size_bytes, "published_bytes": smollm2_gguf.stat().st_size}
    assert last == {"pack": {"name": "smollm2", "id": smollm2.id, **sizes, "already": False}}
    assert contents(pack.directory) == contents(smollm2.directory)


def test_a_file_cut_anywhere_is_refused(smollm2_gguf: Path, header_bytes: int, tmp_path: Path, models: Path) -> None:
    """50 places, from long to short: in the data, the tensors' descriptions, the vocabulary, the first bytes."""
    size = smollm2_gguf.stat().st_size
    rng = random.Random(1)
    cuts = {size - 1, size - 4096, header_bytes, header_bytes - 1, 24, 23, 8, 4, 3, 1, 0}
    cuts |= {rng.randrange(header_bytes, size) for _ in range(12)}
    cuts |= {rng.randrange(header_bytes - 16_000, header_bytes) for _ in range(9)}
    cuts |= {rng.randrange(2000, header_bytes - 16_000) for _ in range(9)}
    cuts |= {rng.randrange(24, 2000) for _ in range(9)}
    assert len(cuts) == 50
    cut = tmp_path / "cut.gguf"
    shutil.copyfile(smollm2_gguf, cut)
    for length in sorted(cuts, reverse=True):
        os.truncate(cut, length)
        error = run_import(cut, models / "cut").error
        assert str(cut) in error["message"], length
        assert error["code"] == ("model_file" if length >= 4 else "unsupported_model")
        assert list(models.iterdir()) == [], length


def test_a_flipped_byte_in_the_header_gives_one_error_or_a_pack(
    one_layer_gguf: Path, tmp_path: Path, models: Path
) -> None:
    original = one_layer_gguf.read_bytes()
    header = int(gguf.GGUFReader(one_layer_gguf).data_offset)
    vocabulary = original.index(b"tokenizer.ggml.tokens")
    end_of_settings = original.rindex(b"tokenizer.ggml.")
    regions = [
        (0, vocabulary + 40),
        (0, 200),
        (vocabulary, header),
        (end_of_settings - 200, header),
        (header - 900, header),
    ]
    imported, refused = [], []

    def flip(seed: int) -> None:
        rng = random.Random(seed)
        place = rng.randrange(*regions[seed % len(regions)])
        path = tmp_path / f"flipped-{seed}.gguf"
        path.write_bytes(original[:place] + bytes([original[place] ^ (1 << rng.randrange(8))]) + original[place + 1 :])
        target = models / f"model-{seed}"
        outcome = run_import(path, target)
        if outcome.code == 0:
            verify_pack(Pack(target))
            imported.append(seed)
            shutil.rmtree(target)
        else:
            assert outcome.error["code"] in {"model_file", "unsupported_model", "tokenizer", "chat_template"}
            refused.append((place, outcome.error["message"]))
            assert not target.exists()
        path.unlink()

    in_parallel(flip, range(60))
    assert list(models.iterdir()) == []
    assert len(refused) >= 15
    assert len(imported) >= 5


def test_weights_of_random_bytes_are_imported_or_refused(one_layer_gguf: Path, tmp_path: Path, models: Path) -> None:
    """Scales may come out infinite: then it is said where."""
    data = bytearray(one_layer_gguf.read_bytes())
    header = int(gguf.GGUFReader(one_layer_gguf).data_offset)
    data[header:] = random.Random(1).randbytes(len(data) - header)
    path = tmp_path / "noise.gguf"
    path.write_bytes(data)
    error = run_import(path, models / "noise").error
    assert error["code"] == "model_file"
    assert "is not a finite number" in error["message"]
    assert list(models.iterdir()) == []


def edited(path: Path, name: str, old: bytes, new: bytes) -> Path:
    data = path.read_bytes()
    assert data.count(old) >= 1
    assert len(old) == len(new)
    copy = path.with_name(name)
    copy.write_bytes(data.replace(old, new, 1))
    return copy


def test_what_is_guessed_is_said(one_layer_gguf: Path, models: Path) -> None:
    source = edited(one_layer_gguf, "no-pre.gguf", b"tokenizer.ggml.pre", b"tokenizer.ggml.prx")
    outcome = run_import(source, models / "guessed")
    assert outcome.code == 0
    notes = [line["note"] for line in outcome.lines if "note" in line]
    assert len(notes) == 1
    assert "tokenizer.ggml.pre" in notes[0]


def test_what_is_not_a_model_that_tpid_runs_is_refused(
    one_layer_gguf: Path, random_model: Callable[..., Path], tmp_path: Path, models: Path
) -> None:
    """One clear sentence with the path, and what to do next."""
    (tmp_path / "empty.gguf").write_bytes(b"")
    (tmp_path / "text.gguf").write_text("A model, I swear.")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "weights.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    os.mkfifo(tmp_path / "fifo")
    gpt2 = shutil.copytree(random_model("llama"), tmp_path / "gpt2")
    config = json.loads((gpt2 / "config.json").read_text())
    (gpt2 / "config.json").write_text(json.dumps(config | {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}))
    cases: list[tuple[Path, str, str]] = [
        (tmp_path / "missing.gguf", "model_file", "No such file or directory"),
        (tmp_path / ("x" * 300), "model_file", "File name too long"),
        (tmp_path / "loop", "model_file", "symbolic links"),
        (tmp_path / "fifo", "model_file", "not a regular file"),
        (Path("/dev/zero"), "model_file", "not a regular file"),
        (tmp_path / "empty.gguf", "unsupported_model", "an empty file"),
        (tmp_path / "text.gguf", "unsupported_model", "not a GGUF file"),
        (tmp_path / "weights.safetensors", "unsupported_model", "without their config.json"),
        (tmp_path / "nothing", "unsupported_model", "neither config.json nor a GGUF file"),
        (tmp_path / "config", "model_file", "hidden_size"),
        (random_model("llama"), "tokenizer", "neither a tokenizer.json nor a tokenizer.model"),
        (gpt2, "unsupported_model", "gpt2"),
        (
            edited(one_layer_gguf, "mamba.gguf", b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0mamba"),
            "unsupported_model",
            "mamba",
        ),
        (edited(one_layer_gguf, "v9.gguf", b"GGUF\x03", b"GGUF\x09"), "unsupported_model", "version 9"),
        (
            edited(one_layer_gguf, "no-tokens.gguf", b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenz"),
            "tokenizer",
            "tokenizer.ggml.tokens",
        ),
    ]

    def check(index: int) -> None:
        path, code, text = cases[index]
        error = run_import(path, models / f"model-{index}").error
        assert error["code"] == code, error
        assert text in error["message"]
        assert str(path) in error["message"]

    in_parallel(check, range(len(cases)))
    assert list(models.iterdir()) == []


@pytest.mark.parametrize("name", ["Upper", ".hidden", "a b", "x" * 65, "ä", ".."])
def test_a_name_that_is_not_allowed_is_refused(smollm2_gguf: Path, models: Path, name: str) -> None:
    error = run_import(smollm2_gguf, models / name).error
    assert error["code"] == "request"
    assert "cannot be a model's name" in error["message"]
    assert list(models.iterdir()) == []


def test_a_name_that_is_taken_is_refused_or_replaced(one_layer_gguf: Path, models: Path) -> None:
    assert run_import(one_layer_gguf, models / "taken").code == 0
    before = contents(models)
    error = run_import(one_layer_gguf, models / "taken").error
    assert error["code"] == "pack"
    assert f"{models / 'taken'} is there already" in error["message"]
    assert contents(models) == before
    assert run_import(one_layer_gguf, models / "taken", "--replace", "--format", "w8").code == 0
    assert Pack(models / "taken").manifest.layers[0].attn.formats["q"] == "w8"
    assert [path.name for path in models.iterdir()] == ["taken"]


def test_a_models_dir_that_cannot_be_made_is_named(one_layer_gguf: Path, models: Path) -> None:
    (models / "file").write_text("")
    error = run_import(one_layer_gguf, models / "file" / "model").error
    assert error["code"] == "pack"
    assert str(models / "file") in error["message"]


def test_a_catalogue_entry_that_is_not_there_is_refused(models: Path) -> None:
    command = [*COMMAND, "--pull", "gpt-5", "--models-dir", str(models)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    outcome = Outcome(result.returncode, [json.loads(line) for line in result.stdout.splitlines()], result.stderr, 0)
    assert outcome.error["code"] == "model_not_found"
    assert "smollm2-135m" in outcome.error["hint"]
    assert list(models.iterdir()) == []


def test_a_model_of_the_hub_is_pulled_once(one_layer_gguf: Path, models: Path) -> None:
    hub = FakeHub(repos={"a/b": {"One-Layer-Q4_1.gguf": one_layer_gguf.read_bytes()}}, gated={"a/b"})
    hub.start()
    try:
        command = [*COMMAND, "--pull", "hf.co/a/b:Q4_1", "--models-dir", str(models)]
        environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
        asked = 0
        for already in (False, True):
            result = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=True, timeout=TIMEOUT_S
            )
            pack = json.loads(result.stdout.splitlines()[-1])["pack"]
            assert (pack["name"], pack["already"]) == ("one-layer-q4_1", already)
            assert not already or len(hub.requests) == asked
            asked = len(hub.requests)
    finally:
        hub.stop()
    assert Pack(models / "one-layer-q4_1").spec.n_layers == 1
    assert [path.name for path in models.iterdir()] == ["one-layer-q4_1"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_the_next_run_goes_on(
    smollm2_gguf: Path, smollm2: Pack, models: Path, number: signal.Signals
) -> None:
    with _held(smollm2_gguf, models) as process:
        process.send_signal(number)
        _, errors = process.communicate(timeout=TIMEOUT_S)
        assert errors == b""
        assert process.returncode == 130
    _goes_on(smollm2_gguf, smollm2, models)


def test_it_ends_when_nobody_listens_and_the_next_run_goes_on(smollm2_gguf: Path, smollm2: Pack, models: Path) -> None:
    """The daemon that asked for it was killed."""
    with _held(smollm2_gguf, models) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.close()  # on it goes
        assert process.stderr.read() == b""
        assert process.wait(TIMEOUT_S) == 130
    _goes_on(smollm2_gguf, smollm2, models)


def test_a_killed_import_leaves_what_the_next_run_goes_on_from(smollm2_gguf: Path, smollm2: Pack, models: Path) -> None:
    with _held(smollm2_gguf, models) as process:
        process.kill()
    _goes_on(smollm2_gguf, smollm2, models)


@contextlib.contextmanager
def _held(path: Path, models: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """An import that has done a tenth of its work, and waits until its stdin is closed."""
    command = [sys.executable, "-c", _HOLD, "--path", str(path), "--target", str(models / "model")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        for line in process.stdout:
            progress = json.loads(line)
            if progress["done_bytes"] * 10 >= progress["total_bytes"]:
                assert progress["stage"] == "convert"
                yield process
                return
        pytest.fail("it ended before it was interrupted")


def _goes_on(path: Path, expected: Pack, models: Path) -> None:
    """Files that were finished are not written again, and the pack is the same to the byte."""
    staging = models / ".model.partial"
    assert [entry.name for entry in models.iterdir()] == [staging.name]
    finished = json.loads((staging / "import.json").read_bytes())["files"]
    assert 0 < len(finished) <= expected.spec.n_layers + 1
    written_ns = {name: (staging / name).stat().st_mtime_ns for name in finished}
    assert run_import(path, models / "model").code == 0
    assert {name: (models / "model" / name).stat().st_mtime_ns for name in finished} == written_ns
    assert [entry.name for entry in models.iterdir()] == ["model"]
    assert contents(models / "model") == contents(expected.directory)

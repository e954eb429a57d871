"""What a target does wrong is found, kept and told."""

from pathlib import Path

import pytest

from tests.fuzz import child
from tests.fuzz.run import run_target
from tests.fuzz.stretch import MAX_BYTES, stretched

FAULTS = {
    "raises": ("raise KeyError(data)", "KeyError"),
    "takes_memory": ("bytearray(400 << 20)", "MiB more memory"),
    "asks_for_too_much": ("bytearray(4 << 30)", "MemoryError"),
    "takes_long": ("sum(range(15 * 10**7))", "more than 1 s"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body, report = FAULTS[name]
    targets = tmp_path / "tests" / "fuzz" / "targets"
    targets.mkdir(parents=True)
    (targets / f"{name}.py").write_text(f"def fuzz(data: bytes) -> None:\n    if data[:1] == b'A':\n        {body}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    outcome = run_target(name, 3, tmp_path / "keep")
    assert outcome.failure is not None
    assert report in outcome.failure
    assert outcome.input is not None
    assert outcome.input.read_bytes().startswith(b"A")


def test_without_guidance_the_corpus_is_changed_at_random(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "seed").write_bytes(b"abc")
    monkeypatch.chdir(tmp_path)
    seen: set[bytes] = set()
    child.fuzz_unguided(seen.add, 0.2, [str(corpus)])
    assert b"abc" in seen
    assert len(seen) > 10

    def target(data: bytes) -> None:
        if data != b"abc":
            raise KeyError

    with pytest.raises(KeyError):
        child.fuzz_unguided(target, 60, [str(corpus)])
    assert next(tmp_path.glob("crash-*")).read_bytes() != b"abc"
    assert child.EXECUTIONS in capsys.readouterr().out


def test_stretching() -> None:
    assert stretched(b"abc") == b"abc"
    assert stretched(b"xab\xfe\x02\x02c") == b"xab" + 4 * b"ab" + b"c"
    assert stretched(b"ab\xfe\x00\x02c\xfe\x01") == b"abc\xfe\x01"
    assert len(stretched(b"a" * 63 + 50 * b"\xfe\x3f\x13")) <= MAX_BYTES

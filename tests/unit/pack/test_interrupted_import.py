"""An import that is cut goes on where it was, and the pack is the same to the byte."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tpid.errors import PackError
from tpid.model.weights import Format
from tpid.pack.reader import Pack
from tpid.pack.verify import Progress
from tpid.pack.writer import JOURNAL_NAME, import_pack

Sources = Callable[..., Any]

SPEC: dict[str, Any] = {"n_layers": 3, "tied_head": False, "vocab_size": 512 * 6 + 1}
FILES = ["layers/000", "layers/001", "layers/002", "embed", "head"]


class Interrupt:
    """A progress callback that is interrupted at its n-th report."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.reports: list[Progress] = []

    def __call__(self, progress: Progress) -> None:
        self.reports.append(progress)
        if len(self.reports) == self.at:
            raise KeyboardInterrupt


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(source_of: Sources, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(the pack's files, the number of reports of progress)"""
    count = Interrupt(-1)
    pack = import_pack(source_of(**SPEC), tmp_path_factory.mktemp("whole") / "pack", progress=count)
    return contents(pack.directory), len(count.reports)


def matrices_of(file: str) -> set[str]:
    if "/" not in file:
        return {file}
    return {f"layers.{int(file[-3:])}.{matrix}" for matrix in ("q", "k", "v", "o", "gate", "up", "down")}


def test_it_goes_on_where_it_was_wherever_it_was_cut(source_of: Sources, whole: Any, tmp_path: Path) -> None:
    expected, n_reports = whole
    for at in range(1, n_reports + 1):
        target = tmp_path / f"pack-{at}"
        with pytest.raises(KeyboardInterrupt):
            import_pack(source_of(**SPEC), target, progress=Interrupt(at))
        staging = tmp_path / f".pack-{at}.partial"
        assert staging.is_dir()
        assert not target.exists()
        journal = staging / JOURNAL_NAME
        finished = [
            name.removesuffix(".safetensors")
            for name in (json.loads(journal.read_bytes())["files"] if journal.exists() else ())
        ]
        assert finished == FILES[: len(finished)]

        again, reports = source_of(**SPEC), Interrupt(-1)
        pack = import_pack(again, target, progress=reports)
        assert set(again.reads) == set().union(*(matrices_of(file) for file in FILES[len(finished) :]))
        assert contents(pack.directory) == expected
        assert not staging.exists()
        assert len(reports.reports) <= n_reports
        assert reports.reports[-1].done_bytes == reports.reports[-1].total_bytes


def test_it_may_be_cut_again_and_again(source_of: Sources, whole: Any, tmp_path: Path) -> None:
    """Each run finishes one file more."""
    expected, _ = whole
    reads = []
    for _ in FILES:
        source = source_of(**SPEC)

        def after_one_file(progress: Progress, source: Any = source) -> None:
            touched = {name.rpartition(".")[0] or name for name in source.reads}
            if len(touched) == 2:
                raise KeyboardInterrupt

        try:
            import_pack(source, tmp_path / "pack", progress=after_one_file)
        except KeyboardInterrupt:
            assert not (tmp_path / "pack").exists()
        reads += sorted({name.rpartition(".")[0] or name for name in source.reads})
    assert contents(tmp_path / "pack") == expected
    assert len(reads) == 2 * (len(FILES) - 1) + 1


@pytest.mark.parametrize(
    ("options", "requested"),
    [({"seed": 2}, None), ({"formats": {"q": Format.W4}, "seed": 3}, None), ({}, Format.W8)],
)
def test_a_changed_source_or_format_starts_anew(
    source_of: Sources, tmp_path: Path, options: dict[str, Any], requested: Format | None
) -> None:
    with pytest.raises(KeyboardInterrupt):
        import_pack(source_of(**SPEC), tmp_path / "pack", progress=Interrupt(8))
    changed = source_of(**SPEC, **options)
    pack = import_pack(changed, tmp_path / "pack", requested=requested)
    assert set(changed.reads) == set(changed.matrices)
    fresh = import_pack(source_of(**SPEC, **options), tmp_path / "fresh", requested=requested)
    assert contents(pack.directory) == contents(fresh.directory)


def test_files_of_a_larger_model_do_not_stay(source_of: Sources, whole: Any, tmp_path: Path) -> None:
    larger = source_of(**(SPEC | {"n_layers": 5}), seed=9)
    with pytest.raises(KeyboardInterrupt):
        import_pack(larger, tmp_path / "pack", progress=Interrupt(20))
    pack = import_pack(source_of(**SPEC), tmp_path / "pack")
    assert contents(pack.directory) == whole[0]


@pytest.mark.parametrize(
    "journal",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"{}",
        b'{"identity": {}, "files": {}}',
        b'{"identity": null, "files": {"layers/000.safetensors": 1}}',
        b"[" * 100_000,
    ],
)
def test_a_journal_that_makes_no_sense_is_not_believed(
    source_of: Sources, whole: Any, tmp_path: Path, journal: bytes
) -> None:
    with pytest.raises(KeyboardInterrupt):
        import_pack(source_of(**SPEC), tmp_path / "pack", progress=Interrupt(8))
    (tmp_path / ".pack.partial" / JOURNAL_NAME).write_bytes(journal)
    source = source_of(**SPEC)
    assert contents(import_pack(source, tmp_path / "pack").directory) == whole[0]
    assert set(source.reads) == set(source.matrices)


@pytest.mark.parametrize(
    "spoiled",
    [
        {},
        {"attn.units": []},
        {"attn.units": ["0" * 64] * 2, "ffn.units": ["0" * 64] * 3},
        {"attn.units": ["0" * 64] * 2, "ffn.units": ["0" * 64] * 2, "vectors": ["0" * 64]},
        {"attn.units": ["x"] * 2, "ffn.units": ["0" * 64] * 3, "vectors": ["0" * 64]},
    ],
)
def test_a_journal_with_other_digests_than_units_is_not_believed(
    source_of: Sources, whole: Any, tmp_path: Path, spoiled: dict[str, list[str]]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        import_pack(source_of(**SPEC), tmp_path / "pack", progress=Interrupt(8))
    path = tmp_path / ".pack.partial" / JOURNAL_NAME
    journal = json.loads(path.read_bytes())
    journal["files"]["layers/000.safetensors"] = spoiled
    path.write_text(json.dumps(journal))
    assert contents(import_pack(source_of(**SPEC), tmp_path / "pack").directory) == whole[0]


def test_a_finished_file_that_was_cut_or_lost_is_written_again(source_of: Sources, whole: Any, tmp_path: Path) -> None:
    for spoil in (lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-1])):
        with pytest.raises(KeyboardInterrupt):
            import_pack(source_of(**SPEC), tmp_path / "pack", progress=Interrupt(9))
        spoil(tmp_path / ".pack.partial" / "layers" / "001.safetensors")
        source = source_of(**SPEC)
        assert contents(import_pack(source, tmp_path / "pack").directory) == whole[0]
        assert "layers.1.q" in source.reads
        assert "layers.0.q" not in source.reads
        shutil.rmtree(tmp_path / "pack")


def test_a_finished_file_that_was_damaged_is_found(source_of: Sources, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        import_pack(source_of(**SPEC), tmp_path / "pack", progress=Interrupt(8))
    path = tmp_path / ".pack.partial" / "layers" / "000.safetensors"
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    with pytest.raises(PackError, match=r"000\.safetensors: unit 0 of attn\.units"):
        import_pack(source_of(**SPEC), tmp_path / "pack")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_replacement_leaves_the_old_pack_in_place(source_of: Sources, tmp_path: Path) -> None:
    old = import_pack(source_of(), tmp_path / "pack")
    with pytest.raises(KeyboardInterrupt):
        import_pack(source_of(**SPEC), tmp_path / "pack", replace=True, progress=Interrupt(5))
    assert Pack(tmp_path / "pack").id == old.id
    new = import_pack(source_of(**SPEC), tmp_path / "pack", replace=True)
    assert Pack(tmp_path / "pack").id == new.id != old.id
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]


@pytest.mark.parametrize("replace", [False, True])
def test_a_replacement_cut_between_its_two_renames_is_healed(source_of: Sources, tmp_path: Path, replace: bool) -> None:
    """As a power cut leaves it: the old pack aside, the new one not yet there."""
    old = import_pack(source_of(), tmp_path / "pack")
    (tmp_path / "pack").rename(tmp_path / ".pack.old")
    if replace:
        import_pack(source_of(seed=2), tmp_path / "pack", replace=True)
        assert Pack(tmp_path / "pack").id != old.id
    else:
        with pytest.raises(PackError, match="there already"):
            import_pack(source_of(seed=2), tmp_path / "pack")
        assert Pack(tmp_path / "pack").id == old.id
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]


def test_a_real_signal_interrupts_as_well(source_of: Sources, whole: Any, tmp_path: Path) -> None:
    reports = []

    def interrupt(progress: Progress) -> None:
        reports.append(progress)
        if len(reports) == 6:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        import_pack(source_of(**SPEC), tmp_path / "pack", progress=interrupt)
    assert (tmp_path / ".pack.partial" / JOURNAL_NAME).exists()
    assert contents(import_pack(source_of(**SPEC), tmp_path / "pack").directory) == whole[0]

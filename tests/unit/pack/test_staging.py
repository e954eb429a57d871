"""Full disks, missing permissions, two imports of one name."""

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tpid.errors import DiskFullError, PackError
from tpid.pack.reader import Pack
from tpid.pack.staging import staging_for
from tpid.pack.verify import Progress, verify_pack
from tpid.pack.writer import import_pack

Sources = Callable[..., Any]


def test_two_imports_of_one_name_do_not_meet(source_of: Sources, tmp_path: Path) -> None:
    refused = []

    def import_again(progress: Progress) -> None:
        if progress.stage == "convert":
            with pytest.raises(PackError, match=r"Another import writes .*\.pack\.partial at this moment") as caught:
                import_pack(source_of(seed=2), tmp_path / "pack")
            refused.append(caught.value.hint)

    pack = import_pack(source_of(), tmp_path / "pack", progress=import_again)
    assert refused
    assert None not in refused
    verify_pack(pack)
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]


def test_imports_of_other_names_do_not_disturb(source_of: Sources, tmp_path: Path) -> None:
    others = []

    def import_other(progress: Progress) -> None:
        others.append(import_pack(source_of(seed=2), tmp_path / f"other-{len(others)}"))

    pack = import_pack(source_of(n_layers=1), tmp_path / "pack", progress=import_other)
    assert {other.id for other in others} == {others[0].id} != {pack.id}


def test_a_directory_that_was_replaced_before_it_was_locked_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other import ends between this one's opening and locking."""
    open_ = os.open

    def open_late(path: Any, *arguments: Any, **options: Any) -> int:
        file = open_(path, *arguments, **options)
        if Path(path).name == ".pack.partial":
            Path(path).rename(tmp_path / "pack")
        return file

    monkeypatch.setattr(os, "open", open_late)
    with pytest.raises(PackError, match="Another import"), staging_for(tmp_path / "pack", replace=True):
        pytest.fail("it went on")
    assert (tmp_path / "pack").is_dir()


def test_a_pack_that_appears_meanwhile_is_not_replaced(source_of: Sources, tmp_path: Path) -> None:
    """The other import ends between this one's first look and its lock."""
    done = import_pack(source_of(), tmp_path / "pack")
    done.directory.rename(tmp_path / "elsewhere")

    class Late(type(tmp_path)):  # type: ignore[misc]
        def mkdir(self, *arguments: Any, **options: Any) -> None:
            super().mkdir(*arguments, **options)
            (tmp_path / "elsewhere").rename(tmp_path / "pack")

        def with_name(self, name: str) -> Path:
            return Late(super().with_name(name)) if name.endswith(".partial") else Path(super().with_name(name))

    with pytest.raises(PackError, match="there already"), staging_for(Late(tmp_path / "pack"), replace=False):
        pytest.fail("it went on")
    assert Pack(tmp_path / "pack").id == done.id
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]


def test_a_link_to_a_pack_elsewhere_is_replaced_without_touching_it(source_of: Sources, tmp_path: Path) -> None:
    other_disk = import_pack(source_of(), tmp_path / "disk" / "pack")
    models = tmp_path / "models"
    models.mkdir()
    (models / "pack").symlink_to(other_disk.directory)
    with pytest.raises(PackError, match="there already"):
        import_pack(source_of(seed=2), models / "pack")
    new = import_pack(source_of(seed=2), models / "pack", replace=True)
    assert [path.name for path in models.iterdir()] == ["pack"]
    assert Pack(models / "pack").id == new.id
    verify_pack(other_disk)


class FailingDisk:
    """Counts every operation that writes, and lets the n-th fail."""

    def __init__(self, patch: pytest.MonkeyPatch, fail_at: int, code: int = errno.ENOSPC) -> None:
        self.count = 0
        self._fail_at = fail_at
        self._code = code
        for where, name in ((os, "fsync"), (os, "mkdir"), (os, "replace"), (os, "rename")):
            patch.setattr(where, name, self._counted(getattr(where, name)))
        patch.setattr(io, "open", self._open)

    def _counted(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            if operation.__name__ != "mkdir" or not Path(arguments[0]).is_dir():  # writes nothing where it is there
                self.step()
            return operation(*arguments, **options)

        return run

    def _open(self, path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if "w" not in mode:
            return open(path, mode, *arguments, **options)
        self.step()
        return io.BufferedWriter(_File(str(path), self), buffer_size=512)

    def step(self) -> None:
        self.count += 1
        if self.count == self._fail_at:
            raise OSError(self._code, os.strerror(self._code))


class _File(io.FileIO):
    def __init__(self, path: str, disk: FailingDisk) -> None:
        super().__init__(path, "w")
        self._disk = disk

    def write(self, data: Any) -> int:
        self._disk.step()
        return super().write(data)


def _disk_full(run: Callable[[int], None], fail_at: int) -> DiskFullError | None:
    try:
        run(fail_at)
    except DiskFullError as error:
        return error
    return None


@pytest.mark.parametrize("replace", [False, True])
def test_a_disk_that_becomes_full_at_any_point_leaves_nothing(
    source_of: Sources, tmp_path: Path, replace: bool
) -> None:
    target = tmp_path / "models" / "pack"
    old = import_pack(source_of(seed=2), target).id if replace else None

    def run(fail_at: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            FailingDisk(patch, fail_at)
            import_pack(source_of(n_layers=1), target, replace=replace)

    if not replace:
        target.parent.mkdir()
    n_failures = 0
    while (failure := _disk_full(run, n_failures + 1)) is not None:
        n_failures += 1
        assert str(target.parent) in failure.message
        assert failure.hint is not None
        assert [path.name for path in target.parent.iterdir()] == (["pack"] if replace else [])
        assert not replace or Pack(target).id == old
    assert n_failures > 25
    verify_pack(Pack(target))
    assert Pack(target).id != old
    assert [path.name for path in target.parent.iterdir()] == ["pack"]


@pytest.mark.parametrize(
    ("code", "text"),
    [(errno.EACCES, "Permission denied"), (errno.EROFS, "Read-only file system"), (errno.EIO, "Input/output error")],
)
@pytest.mark.parametrize("at", [1, 2, 6])
def test_a_disk_that_cannot_be_written_is_named(
    source_of: Sources, tmp_path: Path, code: int, text: str, at: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        FailingDisk(patch, at, code)
        with pytest.raises(PackError, match=rf"The import cannot write {tmp_path}.*: .*{text}") as caught:
            import_pack(source_of(), tmp_path / "pack")
    assert caught.value.hint is not None
    assert list(tmp_path.iterdir()) == []


def test_a_models_dir_that_is_a_file_is_named(source_of: Sources, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")
    with pytest.raises(PackError, match=rf"cannot write {tmp_path}/models"):
        import_pack(source_of(), tmp_path / "models" / "pack")


def test_a_real_disk_that_is_too_small_is_refused_at_once(source_of: Sources, small_disk: Path) -> None:
    source = source_of()
    with pytest.raises(DiskFullError, match=r"where \S+ \w+ are free"):
        import_pack(source, small_disk / "pack")
    assert source.reads == []
    assert list(small_disk.iterdir()) == []


def test_a_real_disk_that_becomes_full_meanwhile_leaves_nothing(
    source_of: Sources, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tpid.pack.writer.FREE_MARGIN_BYTES", 0)
    sizes = {"n_layers": 3, "vocab_size": 512 * 8}

    def fill(progress: Progress) -> None:
        """Somebody else writes to the same disk, and leaves less than is still to come."""
        filler = small_disk / "filler"
        if progress.done_bytes * 4 >= progress.total_bytes and not filler.exists():
            free = os.statvfs(small_disk).f_bavail * 4096
            filler.write_bytes(bytes(free - 64 * 1024))

    with pytest.raises(DiskFullError, match=f"The disk of {small_disk} became full"):
        import_pack(source_of(**sizes), small_disk / "pack", progress=fill)
    assert [path.name for path in small_disk.iterdir()] == ["filler"]

    (small_disk / "filler").unlink()
    verify_pack(import_pack(source_of(**sizes), small_disk / "pack"))

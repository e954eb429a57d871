import ctypes
import errno
import mmap
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from tpid.errors import PackError
from tpid.model.spec import LayerSpec, Rope
from tpid.pack.direct import read_pieces
from tpid.pack.reader import Pack
from tpid.pack.verify import Progress, pack_faults, verify_pack
from tpid.pack.writer import import_pack

Sources = Callable[..., Any]

FILES = [
    "tokenizer.json",
    "chat_template.jinja",
    "embed.safetensors",
    "head.safetensors",
    "layers/000.safetensors",
    "layers/001.safetensors",
]


BIASED = (LayerSpec(Rope(1e4), o_bias=True),)


@pytest.fixture(scope="module")
def original(source_of: Sources, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return import_pack(source_of(tied_head=False, pattern=BIASED), tmp_path_factory.mktemp("models") / "pack")


@pytest.fixture(scope="module")
def copy(original: Pack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(original.directory, tmp_path_factory.mktemp("copies") / "pack")


def fault(directory: Path) -> PackError:
    with pytest.raises(PackError) as caught:
        verify_pack(Pack(directory))
    return caught.value


class Spoiled:
    """A file with other content, for a while."""

    def __init__(self, path: Path, content: bytes | None) -> None:
        self.path = path
        self.content = content
        self.before = path.read_bytes()

    def __enter__(self) -> None:
        if self.content is None:
            self.path.unlink()
        else:
            self.path.write_bytes(self.content)

    def __exit__(self, *error: object) -> None:
        self.path.write_bytes(self.before)


def test_a_sound_pack_passes_with_every_unit_counted(original: Pack) -> None:
    reports: list[Progress] = []
    verify_pack(original, reports.append)
    assert {report.stage for report in reports} == {"verify"}
    assert len(reports) == 2 * (2 + 3) + 2 + 2
    assert reports[-1].done_bytes == reports[-1].total_bytes


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_changed_byte_is_found_and_its_file_is_named(copy: Path, name: str, data: st.DataObject) -> None:
    content = bytearray((copy / name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    with Spoiled(copy / name, bytes(content)):
        error = fault(copy)
    assert error.message.startswith(str(copy / name))
    assert error.hint in {"Import the model again.", "Import it again."}


@pytest.mark.parametrize("name", FILES)
def test_every_bit_of_a_header_counts(copy: Path, name: str) -> None:
    """The length, the JSON and the spaces behind it, byte by byte."""
    content = (copy / name).read_bytes()
    for place in [*range(0, 600, 7), 4000, 4095] if name.endswith(".safetensors") else range(len(content)):
        spoiled = (
            content[:place] + bytes([content[place] ^ (0x29 if content[place] == 0x20 else 1)]) + content[place + 1 :]
        )
        with Spoiled(copy / name, spoiled):
            assert str(copy / name) in fault(copy).message, place


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_truncation_and_what_is_appended_are_found(copy: Path, name: str, data: st.DataObject) -> None:
    content = (copy / name).read_bytes()
    cut = content[: data.draw(st.integers(0, len(content) - 1))]
    for spoiled in (cut, content + data.draw(st.binary(min_size=1, max_size=9))):
        with Spoiled(copy / name, spoiled):
            assert fault(copy).message.startswith(str(copy / name))


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    with Spoiled(copy / name, None):
        assert f"{copy / name} cannot be opened: No such file" in fault(copy).message


@pytest.mark.parametrize(
    ("name", "tensor", "unit"),
    [
        ("layers/000.safetensors", "attn.units", 1),
        ("layers/001.safetensors", "ffn.units", 2),
        ("embed.safetensors", "embed.units", 1),
        ("head.safetensors", "head.units", 0),
    ],
)
def test_the_unit_is_named(copy: Path, name: str, tensor: str, unit: int) -> None:
    with safe_open(copy / name, "numpy") as file:
        wanted = file.get_tensor(tensor)[unit].tobytes()
    content = (copy / name).read_bytes()
    at = content.index(wanted) + len(wanted) - 1  # a byte of its padding
    with Spoiled(copy / name, content[:at] + b"\x01" + content[at + 1 :]):
        assert (
            f"unit {unit} of {tensor} at byte {content.index(wanted)} is not what was imported" in fault(copy).message
        )


def test_norms_are_named(copy: Path) -> None:
    for name, what in (("layers/001.safetensors", "a norm or bias"), ("embed.safetensors", "the final norm")):
        content = bytearray((copy / name).read_bytes())
        content[-1] ^= 1
        with Spoiled(copy / name, bytes(content)):
            assert f"{copy / name}: {what} is not what was imported" in fault(copy).message


def test_another_pack_under_the_same_manifest_is_found(source_of: Sources, copy: Path, tmp_path: Path) -> None:
    other = import_pack(source_of(tied_head=False, pattern=BIASED, seed=5), tmp_path / "other")
    for name in FILES[2:]:
        with Spoiled(copy / name, (other.directory / name).read_bytes()):
            assert fault(copy).message.startswith(str(copy / name))


def spoil(path: Path, tensor: str, unit: int) -> None:
    """Flip the last bit of a unit."""
    with safe_open(path, "numpy") as file:
        wanted = file.get_tensor(tensor)[unit].tobytes()
    content = bytearray(path.read_bytes())
    content[content.index(wanted) + len(wanted) - 1] ^= 1
    path.write_bytes(content)


def test_all_faults_are_found_each_with_its_place(original: Pack, tmp_path: Path) -> None:
    copied = shutil.copytree(original.directory, tmp_path / "pack")
    spoil(copied / "layers/000.safetensors", "attn.units", 1)
    spoil(copied / "layers/001.safetensors", "ffn.units", 0)
    spoil(copied / "layers/001.safetensors", "ffn.units", 2)
    (copied / "head.safetensors").write_bytes((copied / "head.safetensors").read_bytes()[:-1])
    (copied / "tokenizer.json").unlink()
    found = list(pack_faults(Pack(copied)))
    assert [Path(fault.message.split()[0].rstrip(":")).name for fault in found] == [
        "head.safetensors",
        "tokenizer.json",
        "000.safetensors",
        "001.safetensors",
        "001.safetensors",
    ]
    places = ["unit 1 of attn.units", "unit 0 of ffn.units", "unit 2 of ffn.units"]
    assert all(place in fault.message for place, fault in zip(places, found[2:], strict=True))
    assert all(fault.hint for fault in found)


def test_a_disk_that_cannot_be_read_is_told_and_the_rest_goes_on(
    original: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    preadv = os.preadv
    broken = os.stat(original.directory / "layers/000.safetensors").st_ino

    def failing(descriptor: int, buffers: Any, offset: int) -> int:
        if os.fstat(descriptor).st_ino == broken and len(buffers[0]) > 4096:
            raise OSError(errno.EIO, "Input/output error")
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    reports: list[Progress] = []
    found = list(pack_faults(original, reports.append))
    path = original.directory / "layers/000.safetensors"
    assert f"{path} cannot be read in or behind unit 0 of attn.units: Input/output error." in [f.message for f in found]
    assert all(str(path) in fault.message for fault in found)
    assert reports[-1].done_bytes < reports[-1].total_bytes


def test_the_page_cache_stays_as_it_was(original: Pack) -> None:
    paths = sorted(original.directory.rglob("*.safetensors"))
    for path in paths:
        with path.open("rb+") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = sum(cached_pages(path) for path in paths)
    for path in paths:
        size = path.stat().st_size // 4096 * 4096
        assert sum(len(piece) for piece in read_pieces(path, 0, 4096, size // 4096)) == size
    assert sum(cached_pages(path) for path in paths) == before


def cached_pages(path: Path) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
        pages = np.frombuffer(memory, np.uint8)
        resident = (ctypes.c_ubyte * -(-len(pages) // mmap.PAGESIZE))()
        assert libc.mincore(ctypes.c_void_p(pages.ctypes.data), ctypes.c_size_t(len(pages)), resident) == 0
        del pages
    return sum(page & 1 for page in resident)


@pytest.mark.parametrize("piece_bytes", [4096, 3 * 4096, 9 << 20])
@pytest.mark.parametrize("refused", [False, True])
def test_pieces_are_the_file_whatever_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int, refused: bool
) -> None:
    if refused:
        opened = os.open

        def without_direct(path: Any, flags: int) -> int:
            if flags & os.O_DIRECT:
                raise OSError(errno.EINVAL, "Invalid argument")
            return opened(path, flags)

        monkeypatch.setattr(os, "open", without_direct)
    content = os.urandom((20 << 20) + 5000)
    (tmp_path / "file").write_bytes(content)
    n_pieces = -(-len(content) // piece_bytes)
    pieces = [piece.tobytes() for piece in read_pieces(tmp_path / "file", 4096, piece_bytes, n_pieces)]
    assert b"".join(pieces) == content[4096:]
    assert all(len(piece) == piece_bytes for piece in pieces[:-2])

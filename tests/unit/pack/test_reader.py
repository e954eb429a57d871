import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from tpid.errors import PackError
from tpid.model.tensorfile import build_header
from tpid.pack.geometry import Block, Half, UnitRange
from tpid.pack.reader import ByteRange, Pack, open_layout, read_file, read_range
from tpid.pack.writer import import_pack

Sources = Callable[..., Any]


@pytest.fixture
def pack(source_of: Sources, tmp_path: Path) -> Pack:
    return import_pack(source_of(tied_head=False), tmp_path / "pack")


def test_a_range_of_units_is_one_range_of_bytes(pack: Pack) -> None:
    for block in pack.manifest.blocks():
        geometry = pack.geometry(block)
        with safe_open(pack.directory / f"layers/{block.layer:03d}.safetensors", "numpy") as file:
            units = file.get_tensor(f"{block.half}.units")
        for start in range(geometry.n_units + 1):
            for stop in range(start, geometry.n_units + 1):
                where = pack.block_range(block, UnitRange(start, stop))
                assert where.offset % 4096 == where.size_bytes % 4096 == 0
                np.testing.assert_array_equal(read_range(where), units[start:stop].reshape(-1))


def test_a_tied_head_is_the_embedding(source_of: Sources, tmp_path: Path) -> None:
    tied = import_pack(source_of(), tmp_path / "tied")
    untied = import_pack(source_of(tied_head=False), tmp_path / "untied")
    assert tied.head_range() == tied.embed_range()
    assert untied.head_range().path.name == "head.safetensors"
    assert tied.manifest.head is None
    assert not (tied.directory / "head.safetensors").exists()


def test_blocks_come_in_the_order_of_a_pass(pack: Pack) -> None:
    assert pack.manifest.blocks() == [
        Block(0, Half.ATTN),
        Block(0, Half.FFN),
        Block(1, Half.ATTN),
        Block(1, Half.FFN),
    ]


def test_size_name_and_small_files(pack: Pack) -> None:
    assert pack.name == "pack"
    assert pack.size_bytes == sum(path.stat().st_size for path in pack.directory.rglob("*") if path.is_file())
    assert pack.tokenizer_json() == b'{"made": "up"}'
    assert pack.chat_template() == "{{ messages }}"


def test_opening_looks_at_the_manifest_only(pack: Pack) -> None:
    shutil.rmtree(pack.directory / "layers")
    again = Pack(pack.directory)
    with pytest.raises(PackError, match=r"layers/000\.safetensors cannot be opened: No such file"):
        again.block_range(Block(0, Half.ATTN), UnitRange(0, 1))
    with pytest.raises(PackError, match=r"layers/001\.safetensors cannot be opened"):
        again.vectors(1)
    again.embed_range()


def test_small_files_that_are_gone_or_damaged_are_named(pack: Pack) -> None:
    (pack.directory / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(PackError, match=r"chat_template\.jinja is not UTF-8"):
        pack.chat_template()
    (pack.directory / "tokenizer.json").unlink()
    with pytest.raises(PackError, match=r"tokenizer\.json cannot be opened: No such file"):
        pack.tokenizer_json()
    with pytest.raises(PackError, match="is not a regular file"):
        read_file(pack.directory)


def test_a_file_of_another_model_is_refused(source_of: Sources, pack: Pack, tmp_path: Path) -> None:
    other = import_pack(source_of(tied_head=False, ffn_size=200), tmp_path / "other")
    shutil.copy(other.directory / "layers/000.safetensors", pack.directory / "layers/000.safetensors")
    with pytest.raises(PackError, match=r"000\.safetensors holds no U8 tensor ffn\.units of shape"):
        Pack(pack.directory).vectors(0)


def test_units_must_start_at_a_page(pack: Pack, tmp_path: Path) -> None:
    layout = pack.layer_layout(0)
    path = tmp_path / "shifted.safetensors"
    path.write_bytes(build_header(layout.tensors(), align=8) + bytes(layout.size_bytes))
    with pytest.raises(PackError, match=r"attn\.units does not start at a multiple of 4096"):
        open_layout(path, layout)


def test_a_header_that_is_not_sound_is_named(pack: Pack, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    for data in (b"", b"\0" * 7, b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}", (10).to_bytes(8, "little") + b'{"a": null'):
        path.write_bytes(data)
        with pytest.raises(PackError, match=r"bad\.safetensors") as caught:
            open_layout(path, pack.layer_layout(0))
        assert caught.value.hint is not None


def test_a_range_beyond_the_end_is_named(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(bytes(100))
    assert read_range(ByteRange(path, 40, 60)).size == 60
    with pytest.raises(PackError, match=r"short ends 1 byte too early"):
        read_range(ByteRange(path, 40, 61))
    with pytest.raises(PackError, match=r"missing cannot be read at byte 0: No such file"):
        read_range(ByteRange(tmp_path / "missing", 0, 1))

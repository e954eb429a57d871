"""A pack with holes: pieces of a whole one in, the same bytes at the same places; and what goes when room is short."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tpid.errors import DiskFullError, PackError
from tpid.pack import unit_store
from tpid.pack.geometry import Block, Half, Share, UnitRange
from tpid.pack.holed import PRESENCE_NAME, HoledPack
from tpid.pack.manifest import read_manifest
from tpid.pack.pieces import Piece, piece_bytes, pieces_of, read_piece
from tpid.pack.reader import Pack, read_range
from tpid.pack.unit_store import UnitStore
from tpid.pack.writer import import_pack

SHARE = Share(UnitRange(1, 2), UnitRange(0, 2))


@pytest.fixture(scope="module")
def whole(source_of: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return import_pack(source_of(), tmp_path_factory.mktemp("holed") / "pack")


@pytest.fixture
def store(tmp_path: Path) -> UnitStore:
    return UnitStore(tmp_path)


def filled(store: UnitStore, whole: Pack, share: Share = SHARE) -> HoledPack:
    held = store.create(whole.id, read_manifest(whole.directory))
    for piece in held.missing(share):
        held.write(piece, read_piece(whole, piece).tobytes())
        held.presence.add(piece)
    held.save(held.presence.encode())
    return held


def test_a_share_lies_where_it_does_in_the_whole_pack(store: UnitStore, whole: Pack) -> None:
    held = filled(store, whole)
    assert held.missing(SHARE) == {}
    for block in whole.manifest.blocks():
        units = SHARE.of(block.half)
        assert (
            read_range(held.pack.block_range(block, units)).tobytes()
            == read_range(whole.block_range(block, units)).tobytes()
        )
        assert held.pack.block_range(block, units).offset == whole.block_range(block, units).offset
    for layer in range(whole.spec.n_layers):
        ours, theirs = held.pack.vectors(layer), whole.vectors(layer)
        assert {name: vector.tobytes() for name, vector in ours.items()} == {n: v.tobytes() for n, v in theirs.items()}


def test_only_what_came_takes_room(store: UnitStore, whole: Pack) -> None:
    held = filled(store, whole)
    assert held.presence.size_bytes == sum(
        len(SHARE.of(block.half)) * whole.geometry(block).stride_bytes for block in whole.manifest.blocks()
    )
    told = UnitStore(store.directory.parent).held()
    assert [(units.pack, units.attn, units.ffn) for units in told] == [(whole.id, (1, 2), (0, 2))]
    assert told[0].size_bytes == held.presence.size_bytes


def test_what_was_written_and_not_noted_is_missing_after_a_restart(store: UnitStore, whole: Pack) -> None:
    held = store.create(whole.id, read_manifest(whole.directory))
    noted, unnoted = list(pieces_of(whole.manifest, SHARE))[:2]
    for piece in (noted, unnoted):
        held.write(piece, read_piece(whole, piece).tobytes())
    held.presence.add(noted)
    held.save(held.presence.encode())
    again = UnitStore(store.directory.parent).find(whole.id)
    assert again is not None
    assert noted in again.presence
    assert unnoted in again.missing(SHARE)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe"])
def test_a_damaged_map_counts_as_empty(store: UnitStore, whole: Pack, content: bytes) -> None:
    held = filled(store, whole)
    (held.pack.directory / PRESENCE_NAME).write_bytes(content)
    again = UnitStore(store.directory.parent).find(whole.id)
    assert again is not None
    assert len(again.missing(SHARE)) == len(list(pieces_of(whole.manifest, SHARE)))


def test_a_file_that_was_cut_or_spoiled_or_is_gone_counts_as_empty_and_the_others_stay(
    store: UnitStore, whole: Pack
) -> None:
    for spoil in (
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b"x"),
        Path.unlink,
    ):
        held = filled(store, whole)
        spoil(held.pack.directory / "layers" / "000.safetensors")
        again = UnitStore(store.directory.parent).find(whole.id)
        assert again is not None
        assert {piece.layer for piece in again.missing(SHARE)} == {0}
        assert len(again.missing(SHARE)) == len([p for p in pieces_of(whole.manifest, SHARE) if p.layer == 0])
        filled(UnitStore(store.directory.parent), whole)
        assert HoledPack(held.pack.directory).missing(SHARE) == {}


def test_a_unit_with_one_wrong_bit_is_not_genuine(store: UnitStore, whole: Pack) -> None:
    held = store.create(whole.id, read_manifest(whole.directory))
    for piece in (Piece(0, Half.ATTN, 1), Piece(1, Half.FFN, 2), Piece(1, None)):
        data = bytearray(read_piece(whole, piece).tobytes())
        assert len(data) == piece_bytes(whole, piece)
        assert held.is_genuine(piece, data)
        data[len(data) // 2] ^= 1
        assert not held.is_genuine(piece, data)


def test_another_manifest_than_the_id_says_is_refused(store: UnitStore, whole: Pack) -> None:
    with pytest.raises(PackError, match="is another one"):
        store.create(whole.id, read_manifest(whole.directory) + b"\n")
    assert store.held() == []


def test_one_writer_at_a_time(store: UnitStore, whole: Pack) -> None:
    held = filled(store, whole)
    with held.held(), pytest.raises(PackError, match="Another tpid"), HoledPack(held.pack.directory).held():
        pass


def test_the_pack_that_was_used_longest_ago_goes_first_and_those_of_a_person_stay(
    source_of: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = [import_pack(source_of(seed=seed), tmp_path / f"pack-{seed}") for seed in (1, 2, 3)]
    store = UnitStore(tmp_path)
    held = [filled(store, pack) for pack in imported]
    for age, pack in zip((50, 90, 70), held, strict=True):
        os.utime(pack.pack.directory / PRESENCE_NAME, (1e9 - age, 1e9 - age))
    size = held[0].presence.size_bytes
    free = [0]

    def free_bytes(self: UnitStore) -> int:
        return free[0] + size * (3 - sum(pack.pack.directory.exists() for pack in held))

    monkeypatch.setattr(unit_store.UnitStore, "free_bytes", free_bytes)
    assert store.make_room(size, {held[0].id}) == [held[1].id]
    free[0] = -size  # somebody else has written meanwhile
    assert store.make_room(size, {held[0].id}) == [held[2].id]
    with pytest.raises(DiskFullError, match="may be used"):
        store.make_room(10 * size, {held[0].id})
    assert [units.pack for units in store.held()] == [held[0].id]
    assert all(pack.directory.is_dir() for pack in imported)


def test_a_pack_that_somebody_removed_is_not_there_any_more(store: UnitStore, whole: Pack) -> None:
    held = filled(store, whole)
    for path in sorted(held.pack.directory.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    held.pack.directory.rmdir()
    assert store.find(whole.id) is None


def test_a_block_of_a_layer_that_never_came_is_no_file(store: UnitStore, whole: Pack) -> None:
    held = store.create(whole.id, read_manifest(whole.directory))
    with pytest.raises(PackError):
        held.pack.block_range(Block(0, Half.ATTN), UnitRange(0, 1))

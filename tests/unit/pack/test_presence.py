"""The map of units: what is added is there, nothing else is, and any bytes are a map or one error."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpid.errors import PackError
from tpid.pack.geometry import Half, Share, UnitRange
from tpid.pack.pieces import Piece, pieces_of
from tpid.pack.presence import Presence
from tpid.pack.reader import Pack
from tpid.pack.writer import import_pack

pieces = (
    st.builds(Piece, st.integers(0, 1), st.just(Half.ATTN), st.integers(0, 1))
    | st.builds(Piece, st.integers(0, 1), st.just(Half.FFN), st.integers(0, 2))
    | st.builds(Piece, st.integers(0, 1), st.none(), st.just(0))
)


@pytest.fixture(scope="module")
def pack(source_of: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """2 layers of 2 attention units and 3 FFN units."""
    return import_pack(source_of(), tmp_path_factory.mktemp("presence") / "pack")


@given(st.sets(pieces), st.sets(pieces))
def test_what_was_added_is_there_also_after_a_restart(pack: Pack, added: set[Piece], asked: set[Piece]) -> None:
    presence = Presence(pack.manifest)
    for piece in added:
        presence.add(piece)
    again = Presence.decode(presence.encode(), pack.manifest, "x")
    for here in (presence, again):
        assert {piece for piece in asked if piece in here} == added & asked
        assert set(here.missing(asked)) == asked - added
        sizes = [pack.geometry(block).stride_bytes for block in pack.manifest.blocks()]
        assert here.size_bytes <= sum(sizes) * 3


@given(st.sets(pieces))
def test_the_run_in_every_layer_is_a_run_in_every_layer_and_no_longer_one_is(pack: Pack, added: set[Piece]) -> None:
    presence = Presence(pack.manifest)
    for piece in added:
        presence.add(piece)
    for half, n_units in ((Half.ATTN, 2), (Half.FFN, 3)):
        runs = [
            UnitRange(start, stop)
            for start in range(n_units)
            for stop in range(start + 1, n_units + 1)
            if all(Piece(layer, half, unit) in added for layer in (0, 1) for unit in range(start, stop))
        ]
        found = presence.in_every_layer(half)
        assert len(found) == max(map(len, runs), default=0)
        assert not found or found in runs


def test_a_whole_pack_lacks_nothing(pack: Pack) -> None:
    share = Share(UnitRange(0, 2), UnitRange(0, 3))
    whole = Presence.whole(pack.manifest)
    assert whole.missing(pieces_of(pack.manifest, share)) == []
    assert whole.size_bytes == sum(pack.geometry(block).size_bytes for block in pack.manifest.blocks())


@pytest.mark.parametrize(
    "piece", [Piece(2, Half.FFN, 0), Piece(0, Half.FFN, 3), Piece(0, Half.ATTN, -1), Piece(0, None, 1)]
)
def test_a_piece_that_the_pack_does_not_have_is_never_there(pack: Pack, piece: Piece) -> None:
    assert piece not in Presence.whole(pack.manifest)
    with pytest.raises(ValueError, match="the pack has no"):
        Presence(pack.manifest).add(piece)


@given(
    st.binary(max_size=200)
    | st.dictionaries(
        st.sampled_from(["presence_version", "vectors", "attn", "ffn", "more"]),
        st.integers(0, 2)
        | st.lists(st.sampled_from(["0", "1", "3", "7", "8", "g", "", "-1"]) | st.integers(), max_size=3),
    ).map(lambda content: json.dumps(content).encode())
)
def test_any_bytes_are_a_map_or_one_error(pack: Pack, data: bytes) -> None:
    with suppress(PackError):
        presence = Presence.decode(data, pack.manifest, "x")
        assert Presence.decode(presence.encode(), pack.manifest, "x").encode() == presence.encode()


def test_a_map_of_more_units_than_the_pack_has_is_refused(pack: Pack, tmp_path: Path) -> None:
    content = json.loads(Presence.whole(pack.manifest).encode())
    content["ffn"][1] = "f"
    with pytest.raises(PackError, match="ffn of layer 1 has more units"):
        Presence.decode(json.dumps(content).encode(), pack.manifest, "x")

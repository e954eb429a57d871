"""One device has the file; the others get the units of their shares from it, and from each other."""

from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Daemon, Home
from tpid.pack.geometry import Share, UnitRange
from tpid.pack.holed import HoledPack
from tpid.pack.pieces import pieces_of, read_piece
from tpid.pack.reader import Pack


@pytest.fixture
def spread_home(model_home: Home) -> Home:
    model_home.pair(desk="user", pi="helper", nas="helper")
    return model_home


def launch_helpers(home: Home, desk: Daemon, *names: str) -> None:
    """With an empty disk each; returns when the desk has the leases of all."""
    for name in names:
        home.launch(name, role="helper", models_dir=str(home.directory / f"{name}-models"))
    all_here = len(names) + 1
    desk.wait("a cluster of all", lambda s: sum(d["granted"] for d in s["cluster"]["devices"]) == all_here)


def share_of(plan: Any, name: str) -> Share:
    share = next(rank["share"] for rank in plan["ranks"] if rank["name"] == name)
    return Share(UnitRange(**share["attn"]), UnitRange(**share["ffn"]))


def held_by(home: Home, name: str) -> HoledPack:
    (directory,) = (home.directory / f"{name}-models" / ".units").iterdir()
    return HoledPack(directory)


def allocated_bytes(directory: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*.safetensors"))


def test_devices_without_the_file_get_just_their_shares_and_compute_the_same(spread_home: Home) -> None:
    desk = spread_home.launch("desk", role="user")
    desk.wait("its lease", lambda s: s["cluster"]["coordinator"] is not None)
    expected = desk.chat("Why is the sky blue?", max_tokens=12)["choices"][0]["message"]["content"]
    launch_helpers(spread_home, desk, "pi", "nas")
    answer = desk.chat("Why is the sky blue?", max_tokens=12)["choices"][0]["message"]["content"]
    plan = desk.status()["plan"]
    assert answer == expected
    assert {rank["name"] for rank in plan["ranks"]} == {"desk", "pi", "nas"}
    whole = Pack(spread_home.models_dir / "smollm2-135m")
    for name in ("pi", "nas"):
        held = held_by(spread_home, name)
        share = share_of(plan, name)
        pieces = list(pieces_of(whole.manifest, share))
        assert held.missing(share) == {}
        assert all(read_piece(held.pack, piece).tobytes() == read_piece(whole, piece).tobytes() for piece in pieces)
        assert not any(
            piece in held.presence
            for piece in pieces_of(whole.manifest, Share(UnitRange(0, 3), UnitRange(0, 48)))
            if piece not in set(pieces)
        )
        told = next(d["profile"]["units"] for d in desk.status()["cluster"]["devices"] if d["profile"]["name"] == name)
        assert told[0]["ffn"] == [share.ffn.start, share.ffn.stop]

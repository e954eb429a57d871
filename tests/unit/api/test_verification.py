import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tpid.api import verification
from tpid.api.verification import Verifications
from tpid.errors import BusyError, PackError
from tpid.pack.reader import Pack
from tpid.pack.verify import Progress, ProgressCallback


@pytest.fixture(scope="module")
def pack(random_model: Callable[..., Path], pack_of: Callable[..., Pack]) -> Pack:
    return pack_of(random_model("llama"))


async def collect(pack: Pack) -> list[dict[str, Any]]:
    return [line async for line in Verifications().run(pack)]


def test_a_sound_pack(pack: Pack) -> None:
    *progress, last = asyncio.run(collect(pack))
    total = progress[-1]["total_bytes"]
    assert progress[-1] == {"stage": "verify", "done_bytes": total, "total_bytes": total}
    assert last == {"verified": {"name": pack.name, "checked_bytes": total, "n_faults": 0}}


def test_a_flipped_bit_is_told_with_file_and_unit(pack: Pack) -> None:
    path = pack.directory / "layers/001.safetensors"
    content = path.read_bytes()
    try:
        path.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
        lines = asyncio.run(collect(pack))
    finally:
        path.write_bytes(content)
    (fault,) = [line["fault"] for line in lines if "fault" in line]
    assert fault["message"] == f"{path}: unit 0 of attn.units at byte 4096 is not what was imported."
    assert (fault["code"], fault["hint"]) == ("pack", "Import the model again.")
    assert lines[-1]["verified"]["n_faults"] == 1


class Slow:
    """Goes on a unit at a time, when it is let."""

    def __init__(self) -> None:
        self.may_go_on = threading.Semaphore(1)
        self.n_units = 0
        self.ended = threading.Event()

    def __call__(self, pack: Pack, progress: ProgressCallback) -> Iterator[PackError]:
        try:
            for _ in range(10):
                self.may_go_on.acquire()
                self.n_units += 1
                progress(Progress("verify", self.n_units, 10))
            yield PackError("never")
        finally:
            self.ended.set()


def test_when_the_client_goes_the_work_ends_at_the_next_unit(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    monkeypatch.setattr(verification, "pack_faults", slow)

    async def leave() -> None:
        lines = Verifications().run(pack)
        assert (await anext(lines))["done_bytes"] == 1
        closing = asyncio.ensure_future(lines.aclose())
        await asyncio.sleep(0)
        slow.may_go_on.release()
        await closing

    asyncio.run(leave())
    assert slow.ended.is_set()
    assert slow.n_units == 2


def test_one_at_a_time(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    monkeypatch.setattr(verification, "pack_faults", slow)

    async def twice() -> None:
        verifications = Verifications()
        first = verifications.run(pack)
        await anext(first)
        with pytest.raises(BusyError, match="is being verified"):
            await anext(verifications.run(pack))
        slow.may_go_on.release(20)
        await first.aclose()
        monkeypatch.undo()
        assert [line async for line in verifications.run(pack)][-1]["verified"]["n_faults"] == 0

    asyncio.run(twice())

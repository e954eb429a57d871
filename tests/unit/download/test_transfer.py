"""One file from a server with faults: what comes is whole and right, or one sentence says why not."""

import asyncio
import hashlib
import random
from pathlib import Path

import pytest
from yarl import URL

from tests.unit.download.hub import TOKEN, FakeHub, Fault
from tpid.download import faults as faults_module
from tpid.download import web as web_module
from tpid.download.faults import MAX_FAILURES, Persistence
from tpid.download.transfer import Source, Transfer
from tpid.download.web import open_web
from tpid.errors import PullError

DATA = random.Random(7).randbytes(5500)  # of six segments
FILE = "m-Q4_0.gguf"


@pytest.fixture
def told() -> list[str]:
    return []


def fetch(
    hub: FakeHub,
    path: Path,
    told: list[str],
    *,
    url: str | None = None,
    sha256: str | None = None,
    token: str | None = None,
) -> list[int]:
    """Into `path`; gives what was told of the progress."""
    progress: list[int] = []

    async def main() -> None:
        async with open_web(hub.url, token) as web:
            address = URL(url or f"{hub.url}/a/b/resolve/main/{FILE}")
            transfer = Transfer(web, Source(address, "the file", sha256), path, Persistence(told.append))
            await transfer.fetch(progress.append)
            await transfer.check(lambda done: None)

    asyncio.run(main())
    return progress


@pytest.fixture
def full_hub(hub: FakeHub) -> FakeHub:
    hub.repos["a/b"] = {FILE: DATA}
    return hub


def test_ranges_behind_a_redirect(full_hub: FakeHub, tmp_path: Path, told: list[str]) -> None:
    progress = fetch(full_hub, tmp_path / "m", told, token=TOKEN)
    assert (tmp_path / "m").read_bytes() == DATA
    assert (progress[0], progress[-1]) == (0, len(DATA))
    assert progress == sorted(progress)
    assert full_hub.sent_bytes == len(DATA) + 1  # and the first byte, by which the server is got to know
    assert {has_token for path, _, has_token in full_hub.requests if path.startswith("/cdn")} == {False}
    assert {has_token for path, _, has_token in full_hub.requests if path.startswith("/a/b")} == {True}
    assert told == []


@pytest.mark.parametrize(
    "faults",
    [
        [Fault(cut_after=300)] * 5,
        [Fault(cut_after=0)],
        [Fault(status=503), Fault(status=502), Fault(status=408)],
        [Fault(status=429, headers={"Retry-After": "0"})],
        [Fault(status=429, headers={"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"})],
        [Fault(status=403)],  # a signed address has run out
    ],
    ids=["cut", "cut-at-once", "busy", "too-many", "until-a-date", "run-out"],
)
def test_faults_that_pass(full_hub: FakeHub, tmp_path: Path, told: list[str], faults: list[Fault]) -> None:
    full_hub.faults = list(faults)
    fetch(full_hub, tmp_path / "m", told)
    assert (tmp_path / "m").read_bytes() == DATA
    assert full_hub.faults == []


def test_a_stall_is_a_cut(full_hub: FakeHub, tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_module, "STALL_TIMEOUT_S", 0.1)
    full_hub.faults = [Fault(stall_after=10)]
    fetch(full_hub, tmp_path / "m", told)
    assert (tmp_path / "m").read_bytes() == DATA


def test_faults_that_stay_end_in_a_sentence_and_what_came_is_kept(
    full_hub: FakeHub, tmp_path: Path, told: list[str]
) -> None:
    full_hub.faults = [Fault(), Fault(), *[Fault(status=500)] * 100]
    with pytest.raises(
        PullError, match=rf"the file answered with status 500, {MAX_FAILURES} times in a row\."
    ) as caught:
        fetch(full_hub, tmp_path / "m", told)
    assert caught.value.hint == "The same command goes on later from where this ended."
    full_hub.faults.clear()
    before = full_hub.sent_bytes
    progress = fetch(full_hub, tmp_path / "m", told)
    assert progress[0] >= 2000
    assert full_hub.sent_bytes - before == len(DATA) - progress[0] + 1


def test_who_is_told_to_wait_long_is_not_kept_waiting(full_hub: FakeHub, tmp_path: Path, told: list[str]) -> None:
    full_hub.faults = [Fault(status=429, headers={"Retry-After": "3600"})] * 4
    with pytest.raises(PullError, match="too many requests; it asks to wait 60 minutes"):
        fetch(full_hub, tmp_path / "m", told)


def test_a_short_wait_is_told(
    full_hub: FakeHub, tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paused: list[float] = []

    async def pause(duration_s: float) -> None:
        paused.append(duration_s)

    monkeypatch.setattr(faults_module.asyncio, "sleep", pause)
    fault = faults_module.PassingFaultError("x", 30.0)
    asyncio.run(Persistence(told.append).wait(fault))
    assert (told, paused) == (["x: going on in 30 s."], [30.0])


def test_a_fetch_that_is_cancelled_goes_on(full_hub: FakeHub, tmp_path: Path, told: list[str]) -> None:
    async def main() -> None:
        async with open_web(full_hub.url, None) as web:
            source = Source(URL(f"{full_hub.url}/a/b/resolve/main/{FILE}"), "the file", None)
            transfer = Transfer(web, source, tmp_path / "m", Persistence(told.append))
            fetching = asyncio.ensure_future(transfer.fetch(lambda done: fetching.cancel() if done >= 1300 else None))
            with pytest.raises(asyncio.CancelledError):
                await fetching

    full_hub.faults = [Fault(stall_after=700), Fault(stall_after=800), Fault(stall_after=900)]
    asyncio.run(main())
    assert not (tmp_path / "m").exists()
    progress = fetch(full_hub, tmp_path / "m", told)
    assert progress[0] >= 1300
    assert (tmp_path / "m").read_bytes() == DATA


def test_another_file_than_was_begun_is_begun_again(full_hub: FakeHub, tmp_path: Path, told: list[str]) -> None:
    full_hub.digests = False
    other = DATA[::-1]

    def change(range_header: str) -> None:
        if range_header.startswith("bytes=3000-"):
            full_hub.served[FILE] = other

    full_hub.on_bytes = change
    fetch(full_hub, tmp_path / "m", told)
    assert (tmp_path / "m").read_bytes() == other


@pytest.mark.parametrize("cuts", [0, 2])
def test_a_server_without_ranges(full_hub: FakeHub, tmp_path: Path, told: list[str], cuts: int) -> None:
    full_hub.ranges = False
    full_hub.faults = [Fault(), *[Fault(cut_after=2500)] * cuts][-max(cuts, 1) :]
    url = f"{full_hub.url}/cdn/a/b/{FILE}"
    # It takes the question for the first byte for one for all.
    fetch(full_hub, tmp_path / "m", told, url=url)
    assert (tmp_path / "m").read_bytes() == DATA


def test_one_that_always_cuts_and_knows_no_ranges_ends(full_hub: FakeHub, tmp_path: Path, told: list[str]) -> None:
    full_hub.ranges = False
    full_hub.faults = [Fault(cut_after=2500)] * 100
    with pytest.raises(PullError, match="was cut, 6 times in a row"):
        fetch(full_hub, tmp_path / "m", told, url=f"{full_hub.url}/cdn/a/b/{FILE}")


def test_other_bytes_than_published_are_refused_and_removed(full_hub: FakeHub, tmp_path: Path, told: list[str]) -> None:
    full_hub.served[FILE] = DATA[:-1] + b"x"
    with pytest.raises(PullError, match=r"came with digest .*published is .*what came is removed"):
        fetch(full_hub, tmp_path / "m", told)
    assert list(tmp_path.iterdir()) == []
    full_hub.served.clear()
    with pytest.raises(PullError, match="came with digest"):
        fetch(full_hub, tmp_path / "m", told, sha256="0" * 64)
    fetch(full_hub, tmp_path / "m", told, sha256=hashlib.sha256(DATA).hexdigest())


def test_an_empty_file(full_hub: FakeHub, tmp_path: Path, told: list[str]) -> None:
    full_hub.repos["a/b"][FILE] = b""
    fetch(full_hub, tmp_path / "m", told)
    assert (tmp_path / "m").read_bytes() == b""


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("/loop", "leads from one address to the next without an end"),
        ("/leads/file:///etc/passwd", "leads to an address that is not followed"),
        ("/none", "There is no the file"),
    ],
)
def test_redirects_have_limits(hub: FakeHub, tmp_path: Path, told: list[str], target: str, message: str) -> None:
    with pytest.raises(PullError, match=message):
        fetch(hub, tmp_path / "m", told, url=f"{hub.url}{target}")


def test_a_host_that_is_not_there_is_named(hub: FakeHub, tmp_path: Path, told: list[str]) -> None:
    with pytest.raises(PullError, match="the file cannot be reached: "):
        fetch(hub, tmp_path / "m", told, url="http://127.0.0.1:1/x.gguf")

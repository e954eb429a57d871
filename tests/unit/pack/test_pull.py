"""Models that are published elsewhere: which files come, under which name, and what an owner is told."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.download.hub import TOKEN, FakeHub, Fault
from tpid.download import faults, partial
from tpid.download.reference import parse_reference
from tpid.errors import DiskFullError, ModelFileError, PackError, PullError
from tpid.model.weights import Format
from tpid.pack import pull
from tpid.pack.pull import Fetched, PullOptions, fetched
from tpid.pack.pulled import pulled_before, remember_source, source_of
from tpid.pack.reader import Pack

GGUF = b"GGUF" + bytes(range(200)) * 20


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(faults, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(partial, "SEGMENT_BYTES", 1000)
    hub = FakeHub(repos={"a/b": {"README.md": b"x", "M-Q4_K_M.gguf": GGUF, "M-Q8_0.gguf": GGUF * 2}})
    hub.start()
    yield hub
    hub.stop()


@pytest.fixture
def options(hub: FakeHub, tmp_path: Path) -> PullOptions:
    models = tmp_path / "models"
    models.mkdir()
    return PullOptions(models, hub.url, None, None, replace=False)


class Pull:
    """`pull(text)` fetches it; what was told and how far it came is kept, and the bytes of each file at its end."""

    def __init__(self, options: PullOptions) -> None:
        self.options = options
        self.told: list[str] = []
        self.progress: list[tuple[Any, ...]] = []
        self.files: dict[str, bytes] = {}

    def __call__(self, text: str, **changes: Any) -> Fetched:
        options = replace(self.options, **changes)
        with fetched(
            parse_reference(text), options, lambda *item: self.progress.append(item), self.told.append
        ) as found:
            directory = found.path if found.path.is_dir() else found.path.parent
            self.files = {path.name: path.read_bytes() for path in directory.iterdir()}
            return found


@pytest.fixture
def fetching(options: PullOptions) -> Pull:
    return Pull(options)


def left(options: PullOptions) -> list[str]:
    return sorted(path.name for directory in options.models_dir.iterdir() for path in directory.iterdir())


def test_a_model_of_the_hub(fetching: Pull, options: PullOptions) -> None:
    found = fetching("hf.co/a/b")
    assert (found.name, found.path.name) == ("m-q4_k_m", "M-Q4_K_M.gguf")
    assert fetching.files == {"M-Q4_K_M.gguf": GGUF}
    assert fetching.told == ["hf.co/a/b is 4.00 kB; the model will be called m-q4_k_m."]
    assert fetching.progress[0] == ("fetch", 0, len(GGUF))
    assert fetching.progress[-1] == ("check", len(GGUF), len(GGUF))
    assert list(options.models_dir.iterdir()) == []


def test_a_quantization_a_name_and_a_page(fetching: Pull) -> None:
    assert fetching("hf.co/a/b:q8_0", name="mine").name == "mine"
    assert fetching.files == {"M-Q8_0.gguf": GGUF * 2}
    assert fetching("https://huggingface.co/a/b/blob/main/M-Q8_0.gguf").name == "m-q8_0"


def test_a_wrong_quantization_lists_those_there_are(fetching: Pull, options: PullOptions) -> None:
    with pytest.raises(PullError, match=r"^hf\.co/a/b has no Q5_K_M\. It has Q4_K_M, Q8_0\.$"):
        fetching("hf.co/a/b:Q5_K_M")
    assert list(options.models_dir.iterdir()) == []


def test_all_parts_of_a_split_model(fetching: Pull, hub: FakeHub) -> None:
    parts = {f"q/M-{number:05d}-of-00003.gguf": GGUF + bytes([number]) * number for number in (1, 2, 3)}
    hub.repos["a/b"] = parts
    found = fetching("a/b")
    assert (found.name, found.path.name) == ("m", "M-00001-of-00003.gguf")
    assert fetching.files == {name.removeprefix("q/"): data for name, data in parts.items()}
    totals = {total for _, _, total in fetching.progress}
    assert totals == {3 * len(GGUF) + 6}
    assert [stage for stage, done, total in fetching.progress if done == total] == ["fetch", "check"]


def test_a_model_as_safetensors_comes_whole(fetching: Pull, hub: FakeHub) -> None:
    files = {"config.json": b"{}", "model.safetensors": GGUF, "tokenizer.json": b"{}"}
    hub.repos["a/Small-Model"] = {**files, "x.bin": b"x"}
    found = fetching("a/Small-Model")
    assert found.name == "small-model"
    assert fetching.files == files


def test_a_file_at_an_address_and_its_other_parts(fetching: Pull, hub: FakeHub) -> None:
    hub.repos["a/b"] = {f"M-0000{number}-of-00002.gguf": GGUF for number in (1, 2)}
    found = fetching(f"{hub.url}/cdn/a/b/M-00002-of-00002.gguf")
    assert (found.name, found.path.name) == ("m", "M-00001-of-00002.gguf")
    assert len(fetching.files) == 2


def test_a_listing_of_many_pages(fetching: Pull, hub: FakeHub) -> None:
    hub.page_files = 1
    hub.listing_faults = [Fault(status=429, headers={"Retry-After": "0"}), Fault(status=500)]
    assert fetching("a/b:Q8_0").name == "m-q8_0"
    assert len(hub.paths("/api/models/a/b/tree/main")) == 5


@pytest.mark.parametrize(
    ("repo", "token", "message"),
    [
        ("a/none", None, r"hf\.co/a/none does not exist, or is private\. .*HF_TOKEN"),
        ("a/none", TOKEN, r"hf\.co/a/none does not exist, or HF_TOKEN may not read it\."),
        ("a/b", "hf_bad", r"hf\.co/a/b does not exist, or HF_TOKEN may not read it\. .*rights"),
        ("a/gated", None, r"hf\.co/a/gated/m\.gguf is gated: .*Accept the terms .*HF_TOKEN=… tpictl pull"),
        ("a/refused", TOKEN, r"is gated, and the account of HF_TOKEN has not been let in\. .*accept the terms"),
    ],
)
def test_who_may_not_is_told_what_to_do(
    fetching: Pull, hub: FakeHub, repo: str, token: str | None, message: str
) -> None:
    hub.repos |= {"a/gated": {"m.gguf": GGUF}, "a/refused": {"m.gguf": GGUF}}
    hub.gated = {"a/gated", "a/refused"}
    hub.granted = repo != "a/refused"
    with pytest.raises(PullError, match=message):
        fetching(repo, token=token)


def test_a_token_opens_what_is_gated_or_private(fetching: Pull, hub: FakeHub) -> None:
    hub.gated = hub.private = {"a/b"}
    assert fetching("a/b", token=TOKEN).name == "m-q4_k_m"
    assert not any(has_token for path, _, has_token in hub.requests if path.startswith("/cdn"))


def test_a_token_is_not_sent_where_others_could_read_it(fetching: Pull, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "is_private_way", lambda url: False)
    fetching("a/b", token="hf_bad")  # which would have been refused
    assert fetching.told[0].startswith("HF_TOKEN is not sent")


def test_space_is_looked_at_before_the_first_byte(
    fetching: Pull, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 8000}))
    with pytest.raises(DiskFullError, match=r"has 8\.00 kB free; the download .* need 8\.41 kB") as caught:
        fetching("a/b")
    assert caught.value.hint is not None
    assert hub.paths("/a/b/resolve") == []


def test_a_name_that_is_taken_is_told_before_the_first_byte(fetching: Pull, options: PullOptions, hub: FakeHub) -> None:
    (options.models_dir / "m-q4_k_m").mkdir()
    with pytest.raises(PackError, match="has another model m-q4_k_m already"):
        fetching("a/b")
    assert hub.paths("/a/b/resolve") == []
    assert fetching("a/b", replace=True).name == "m-q4_k_m"
    assert fetching("a/b", name="other").name == "other"


def test_a_signal_ends_it_and_the_next_run_goes_on(fetching: Pull, options: PullOptions, hub: FakeHub) -> None:
    hub.faults = [Fault(stall_after=600)] * 4
    threading.Thread(target=lambda: hub_stalls(hub)).start()
    with pytest.raises(KeyboardInterrupt):
        fetching("a/b")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert left(options) == ["M-Q4_K_M.gguf.partial", "M-Q4_K_M.gguf.partial.json"]
    fetching.progress.clear()
    hub.faults.clear()
    fetching("a/b")
    assert fetching.progress[0][1] > 0
    assert fetching.files == {"M-Q4_K_M.gguf": GGUF}


def hub_stalls(hub: FakeHub) -> None:
    """Ctrl-C when bytes of every range have come."""
    while hub.sent_bytes < 4 * 600:
        threading.Event().wait(0.01)
    os.kill(os.getpid(), signal.SIGINT)


def test_what_is_whole_is_not_fetched_again(fetching: Pull, options: PullOptions, hub: FakeHub) -> None:
    """The import of it was ended, or a part of it is missing still."""
    with pytest.raises(KeyboardInterrupt), fetched(parse_reference("a/b"), options, lambda *_: None, lambda _: None):
        raise KeyboardInterrupt
    assert left(options) == ["M-Q4_K_M.gguf"]
    before = hub.sent_bytes
    fetching("a/b")
    assert hub.sent_bytes == before


@pytest.mark.parametrize(("error", "stays"), [(ModelFileError("x"), False), (PackError("x"), True)])
def test_what_is_no_model_does_not_stay(options: PullOptions, hub: FakeHub, error: Exception, stays: bool) -> None:
    with pytest.raises(type(error)), fetched(parse_reference("a/b"), options, lambda *_: None, lambda _: None):
        raise error
    assert bool(list(options.models_dir.iterdir())) is stays


def test_two_at_once_are_one_and_a_sentence(fetching: Pull, options: PullOptions) -> None:
    with fetched(parse_reference("a/b"), options, lambda *_: None, lambda _: None):
        with pytest.raises(PackError, match=r"Another pull of hf\.co/a/b goes on"):
            fetching("a/b")
        assert fetching("a/b:Q8_0").name == "m-q8_0"


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'[{"type": "file", "path": 3}]', b"[" * 100_000])
def test_a_hub_that_is_none_is_told(fetching: Pull, hub: FakeHub, body: bytes) -> None:
    hub.listing_faults = [Fault(status=200, body=body)]
    with pytest.raises(PullError, match=r"what is no list of files\. Is HF_ENDPOINT the address of a hub\?"):
        fetching("a/b")


def test_a_listing_leads_nowhere_else_on_the_disk(fetching: Pull, hub: FakeHub) -> None:
    hub.repos["a/b"] = {"../x.gguf": GGUF, "a/../../y.gguf": GGUF, "/z.gguf": GGUF, "a\\b.gguf": GGUF, "ok.gguf": GGUF}
    assert fetching("a/b").name == "ok"


def test_a_second_pull_is_known_without_the_hub(
    random_model: Callable[..., Path], pack_of: Callable[..., Pack], tmp_path: Path
) -> None:
    pack = pack_of(random_model("llama"))
    assert pulled_before(pack.directory.parent, "hf.co/a/b", None) is None
    remember_source(pack, "hf.co/a/b", Format.W8)
    found = pulled_before(pack.directory.parent, "hf.co/a/b", Format.W8)
    assert found is not None
    assert (found.name, source_of(found)) == (pack.name, "hf.co/a/b")
    assert pulled_before(pack.directory.parent, "hf.co/a/b", None) is None
    (pack.directory / "source.json").write_bytes(b"[" * 10_000)
    assert pulled_before(pack.directory.parent, "hf.co/a/b", Format.W8) is None
    (pack.directory / "source.json").write_text(json.dumps({}))
    assert pulled_before(tmp_path / "none", "hf.co/a/b", None) is None
    assert source_of(pack) is None

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpid.errors import ModelNotFoundError, PackError, RequestError
from tpid.pack.manifest import PackId
from tpid.pack.reader import Pack
from tpid.pack.store import Damaged, PackStore, check_name, name_from_path
from tpid.pack.writer import import_pack

Sources = Callable[..., Any]


@pytest.mark.parametrize("name", ["a", "0", "llama-3.2-1b.q4_k_m", "a" * 64, "1..2"])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "A", ".hidden", "-x", "_x", "a/b", "../a", "a" * 65, "a b", "a\n", "ä", "a\0", "٣"]
)
def test_names_that_are_not(name: str) -> None:
    with pytest.raises(RequestError, match="cannot be a model's name") as caught:
        check_name(name)
    assert caught.value.hint is not None


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/m/Llama-3.2-1B.Q4_K_M.gguf", "llama-3.2-1b.q4_k_m"),
        ("/m/SmolLM2-135M-Instruct", "smollm2-135m-instruct"),
        ("/m/Qwen2.5 (1).GGUF", "qwen2.5-1"),
        ("/m/model.v1.5", "model.v1.5"),
        ("/m/.gguf", "gguf"),
        ("/m/Qwen3-32B-Q8_0-00001-of-00004.gguf", "qwen3-32b-q8_0"),
        ("/c/models--Qwen--Qwen2.5-0.5B/snapshots/0a1b2c", "qwen2.5-0.5b"),
        ("/", "model"),
        ("/m/模型", "model"),
    ],
)
def test_a_name_comes_from_the_path(path: str, name: str) -> None:
    assert name_from_path(Path(path)) == name


@given(st.text(max_size=100).filter(lambda text: "\0" not in text))
def test_any_path_gives_a_name(text: str) -> None:
    name = name_from_path(Path(text))
    assert check_name(name) == name


def test_a_scan_finds_packs_and_what_is_damaged(source_of: Sources, tmp_path: Path) -> None:
    one, two = import_pack(source_of(), tmp_path / "one"), import_pack(source_of(seed=2), tmp_path / "two")
    import_pack(source_of(), tmp_path / "cut")
    (tmp_path / "cut" / "model.json").write_bytes(b"{")
    (tmp_path / "empty").mkdir()
    (tmp_path / "a-file").write_text("")
    for ignored in (".one.partial", ".fetch-x", "Not A Name"):
        (tmp_path / ignored).mkdir()
    found = PackStore(tmp_path).scan()
    assert [(item.name, type(item)) for item in found] == [
        ("cut", Damaged),
        ("empty", Damaged),
        ("one", Pack),
        ("two", Pack),
    ]
    assert [item.id for item in found if isinstance(item, Pack)] == [one.id, two.id]
    reasons = [item.reason for item in found if isinstance(item, Damaged)]
    assert "model.json is not sound" in reasons[0]
    assert "No such file" in reasons[1]


def test_a_pack_is_opened_by_name_and_found_by_id(source_of: Sources, tmp_path: Path) -> None:
    pack = import_pack(source_of(), tmp_path / "one")
    (tmp_path / "damaged").mkdir()
    store = PackStore(tmp_path)
    assert store.open("one").id == pack.id
    assert store.find(pack.id).directory == pack.directory
    with pytest.raises(PackError):
        store.open("damaged")
    with pytest.raises(ModelNotFoundError, match=r"no model two\. It has damaged, one\."):
        store.open("two")
    with pytest.raises(ModelNotFoundError, match="no pack with id 000000000000"):
        store.find(PackId("0" * 64))
    with pytest.raises(RequestError):
        store.open("../one")


def test_a_directory_that_is_not_there_is_an_empty_store(tmp_path: Path) -> None:
    store = PackStore(tmp_path / "nowhere")
    assert store.scan() == []
    with pytest.raises(ModelNotFoundError, match="try tpictl pull smollm2-135m"):
        store.open("one")


def test_a_directory_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PackError, match=r"file cannot be read: Not a directory") as caught:
        PackStore(tmp_path / "file").scan()
    assert caught.value.hint is not None

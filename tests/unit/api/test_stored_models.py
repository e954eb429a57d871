import fcntl
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.unit.api.scripted import ScriptedEngine, Serve, plan_of
from tpid.pack.pulled import fetch_directory, remember_source
from tpid.pack.reader import Pack

Call = Callable[..., tuple[int, Any]]


@pytest.fixture
def stored(pack: Pack, models_dir: Path) -> Pack:
    shutil.copytree(pack.directory, models_dir / "tiny")
    return Pack(models_dir / "tiny")


@pytest.fixture
def call(serve: Serve) -> Call:
    def make(target: str, **body: Any) -> tuple[int, Any]:
        async def main() -> tuple[int, Any]:
            async with serve() as api:
                return await api.request(target, body)

        return uvloop.run(main())

    return make


def test_a_model_is_described(call: Call, stored: Pack) -> None:
    (stored.directory / "sampling.json").write_text('{"temperature": 0.6}')
    (stored.directory / "chat_template.jinja").write_text("{{ messages }}")
    remember_source(stored, "hf.co/a/b:Q8_0", None)
    status, shown = call("/tpid/models/show", model="tiny")
    assert status == 200
    assert (shown["name"], shown["id"], shown["layers"]) == ("tiny", stored.id, 3)
    hidden, ffn, vocab, n_layers, kv, q = 96, 200, 600, 3, 48, 96
    in_layer = 2 * hidden * q + 2 * hidden * kv + 3 * hidden * ffn + 2 * hidden
    tied = 1 if stored.spec.tied_head else 2
    assert shown["parameters"] == tied * vocab * hidden + n_layers * in_layer + hidden
    assert shown["sampling"] == {"temperature": 0.6}
    assert shown["source"] == "hf.co/a/b:Q8_0"
    assert shown["chat_template"] == "{{ messages }}"


def test_a_copy_shares_weights_and_has_an_own_sampling(
    call: Call, stored: Pack, models_dir: Path, engine: ScriptedEngine
) -> None:
    (stored.directory / "sampling.json").write_text('{"temperature": 0.6}')
    assert call("/tpid/models/copy", model="tiny", name="mine") == (200, {"name": "mine", "id": stored.id})
    (models_dir / "mine" / "sampling.json").write_text("{}")
    assert (stored.directory / "sampling.json").read_text() == '{"temperature": 0.6}'
    files = [directory / "embed.safetensors" for directory in (stored.directory, models_dir / "mine")]
    assert files[0].samefile(files[1])
    assert engine.told_packs == 1
    status, answer = call("/tpid/models/copy", model="tiny", name="mine")
    assert (status, answer["error"]["code"]) == (422, "pack")
    assert sorted(path.name for path in models_dir.iterdir()) == ["mine", "tiny"]


def test_a_copy_where_links_cannot_be(call: Call, stored: Pack, models_dir: Path, monkeypatch: Any) -> None:
    link = os.link

    def refuse(source: Any, target: Any) -> None:
        if str(source).endswith(".safetensors"):
            raise PermissionError(1, "no links here")
        link(source, target)

    monkeypatch.setattr(os, "link", refuse)
    assert call("/tpid/models/copy", model="tiny", name="mine")[0] == 200
    files = [directory / "embed.safetensors" for directory in (stored.directory, models_dir / "mine")]
    assert not files[0].samefile(files[1])
    assert files[0].read_bytes() == files[1].read_bytes()


def test_removing_tells_what_it_freed(call: Call, stored: Pack, models_dir: Path, engine: ScriptedEngine) -> None:
    (models_dir / ".tiny.partial").mkdir()
    status, answer = call("/tpid/models/remove", model="tiny")
    assert (status, answer["name"]) == (200, "tiny")
    assert answer["freed_bytes"] > 100_000
    assert list(models_dir.iterdir()) == []
    assert (engine.told_packs, engine.n_unloaded) == (1, 0)
    status, answer = call("/tpid/models/remove", model="tiny")
    assert (status, answer["error"]["code"]) == (404, "model_not_found")


def test_a_loaded_model_is_let_go_of_first(call: Call, stored: Pack, engine: ScriptedEngine) -> None:
    engine.status_ = replace(engine.status_, plan=plan_of("tiny"))
    assert call("/tpid/models/remove", model="tiny")[0] == 200
    assert engine.n_unloaded == 1


def test_damaged_ones_and_rests_of_imports_go_too(call: Call, models_dir: Path) -> None:
    (models_dir / "broken").mkdir(parents=True)
    (models_dir / ".half.partial").mkdir()
    assert call("/tpid/models/remove", model="broken")[0] == 200
    assert call("/tpid/models/remove", model="half")[0] == 200
    assert list(models_dir.iterdir()) == []


def test_what_an_import_writes_stays(call: Call, models_dir: Path) -> None:
    partial = models_dir / ".half.partial"
    partial.mkdir(parents=True)
    held = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "An import writes" in call("/tpid/models/remove", model="half")[1]["error"]["message"]
    finally:
        os.close(held)
    assert partial.is_dir()


def test_the_rest_of_an_interrupted_pull_goes_by_its_own_name(call: Call, models_dir: Path) -> None:
    directory = fetch_directory(models_dir, "hf.co/a/b:Q8_0")
    directory.mkdir(parents=True)
    (directory / "m.gguf.partial").write_bytes(b"x" * 8192)
    status, answer = call("/tpid/models/remove", model="https://huggingface.co/a/b:Q8_0")
    assert (status, answer["freed_bytes"]) == (200, 8192)
    assert list(models_dir.iterdir()) == []
    assert call("/tpid/models/remove", model="a/b")[0] == 404


@pytest.mark.parametrize("name", ["../x", ".tiny.partial", "", "A"])
@pytest.mark.parametrize("target", ["show", "copy", "remove"])
def test_names_that_leave_the_directory_are_refused(call: Call, target: str, name: str) -> None:
    body = {"model": name} | ({"name": "x"} if target == "copy" else {})
    status, answer = call(f"/tpid/models/{target}", **body)
    assert (status, answer["error"]["code"]) in ((400, "request"), (404, "model_not_found"))


def test_unloading_tells_what_was_loaded(call: Call, engine: ScriptedEngine) -> None:
    engine.status_ = replace(engine.status_, plan=plan_of("tiny"))
    assert call("/tpid/unload") == (200, {"unloaded": "tiny"})
    assert call("/tpid/unload") == (200, {"unloaded": None})

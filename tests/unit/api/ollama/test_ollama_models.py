import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.unit.api.scripted import ScriptedEngine, Serve, plan_of
from tpid.pack.reader import Pack


def asked(serve: Serve, target: str, body: Any = None) -> tuple[int, Any]:
    async def main() -> tuple[int, Any]:
        async with serve() as api:
            return await api.request(target, body)

    return uvloop.run(main())


@pytest.fixture
def stored(pack: Pack, models_dir: Path) -> Pack:
    shutil.copytree(pack.directory, models_dir / "tiny")
    (models_dir / "broken").mkdir()
    return Pack(models_dir / "tiny")


def test_tags(serve: Serve, stored: Pack) -> None:
    status, answer = asked(serve, "/api/tags")
    assert status == 200
    (model,) = answer["models"]
    assert (model["name"], model["model"], model["digest"]) == ("tiny", "tiny", stored.id)
    assert model["size"] == stored.size_bytes
    assert model["details"]["family"] == "llama"
    assert model["details"]["parameter_size"] == f"{stored.spec.n_parameters / 1e6:.1f}M"


def test_show(serve: Serve, stored: Pack) -> None:
    for body in ({"model": "tiny"}, {"name": "tiny:latest", "verbose": True}):
        status, answer = asked(serve, "/api/show", body)
        assert status == 200
        assert answer["template"] == (stored.chat_template() or "")
        assert answer["model_info"]["llama.context_length"] == stored.spec.context_tokens
        assert "tools" in answer["capabilities"]
    status, answer = asked(serve, "/api/show", {"model": "none"})
    assert status == 404
    assert answer == {"error": "This device has no model none. It has broken, tiny."}


def test_ps_has_what_is_loaded(serve: Serve, engine: ScriptedEngine, stored: Pack) -> None:
    assert asked(serve, "/api/ps") == (200, {"models": []})
    engine.status_ = replace(engine.status_, plan=plan_of("tiny"))
    _, answer = asked(serve, "/api/ps")
    (model,) = answer["models"]
    assert (model["name"], model["size_vram"], model["context_length"]) == ("tiny", 0, 128)
    engine.status_ = replace(engine.status_, plan=plan_of("another"))
    assert asked(serve, "/api/ps") == (200, {"models": []})


def test_version(serve: Serve) -> None:
    assert asked(serve, "/api/version") == (200, {"version": "0.12.0"})

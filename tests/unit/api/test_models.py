import asyncio
import json
import shutil
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.unit.api.scripted import ScriptedEngine, Serve, plan_of
from tpid.device import Role
from tpid.errors import BusyError, LoadError
from tpid.pack.reader import Pack


class ScriptedImports:
    def __init__(self, *script: Any) -> None:
        self.script = script
        self.calls: list[tuple[str, list[str]]] = []
        self.environments: list[dict[str, str]] = []

    async def run(
        self, name: str, arguments: list[str], environment: dict[str, str]
    ) -> AsyncGenerator[dict[str, Any], None]:
        self.calls.append((name, arguments))
        self.environments.append(dict(environment))
        for item in self.script:
            if isinstance(item, Exception):
                raise item
            yield item


PROGRESS = {"stage": "convert", "done_bytes": 1, "total_bytes": 2}
PACK = {"pack": {"name": "m", "id": "ab", "size_bytes": 2}}


def call(serve: Serve, target: str, body: Any = None, **options: Any) -> tuple[int, list[Any]]:
    """Status and the objects of the answer, one a line."""

    async def main() -> tuple[int, str]:
        async with serve(**options) as api:
            return await api.text(target, body)

    status, text = uvloop.run(main())
    return status, [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def stored(pack: Pack, models_dir: Path) -> str:
    shutil.copytree(pack.directory, models_dir / "tiny")
    return "tiny"


# --- listing


def test_packs_sound_and_damaged_and_the_catalogue(serve: Serve, stored: str, models_dir: Path) -> None:
    (models_dir / "broken").mkdir()
    status, (answer,) = call(serve, "/tpid/models")
    assert status == 200
    damaged, sound = answer["models"]
    assert damaged["name"] == "broken"
    assert damaged["damaged"]
    assert (sound["name"], sound["architecture"], sound["layers"], sound["context_tokens"]) == (stored, "llama", 3, 256)
    assert sound["size_bytes"] > 0
    assert "smollm2-135m" in answer["catalogue"]
    assert answer["default"] in answer["catalogue"]


def test_openais_list_has_the_sound_ones(serve: Serve, stored: str, models_dir: Path) -> None:
    (models_dir / "broken").mkdir()
    _, (answer,) = call(serve, "/v1/models")
    assert answer["object"] == "list"
    assert [model["id"] for model in answer["data"]] == [stored]


def test_without_a_directory_there_are_no_models(serve: Serve) -> None:
    assert call(serve, "/v1/models") == (200, [{"object": "list", "data": []}])


# --- importing


def test_an_import_tells_its_progress_and_the_others_hear_of_the_pack(
    serve: Serve, engine: ScriptedEngine, models_dir: Path
) -> None:
    imports = ScriptedImports(PROGRESS, PACK)
    body = {"path": "/m/Llama-1B.gguf", "format": "w4", "replace": True}
    assert call(serve, "/tpid/import", body, imports=imports) == (200, [PROGRESS, PACK])
    target = f"--target={models_dir / 'llama-1b'}"
    assert imports.calls == [("llama-1b", [target, "--path=/m/Llama-1B.gguf", "--format", "w4", "--replace"])]
    assert engine.told_packs == 1


def test_a_pull_goes_by_the_catalogue(serve: Serve, models_dir: Path) -> None:
    imports = ScriptedImports(PACK)
    assert call(serve, "/tpid/pull", {"model": "smollm2-135m"}, imports=imports)[0] == 200
    assert imports.calls == [("smollm2-135m", [f"--models-dir={models_dir}", "--pull=smollm2-135m"])]
    assert imports.environments == [{}]
    assert call(serve, "/tpid/pull", {"model": "none"}, imports=imports)[0] == 404


def test_a_pull_from_elsewhere_has_its_token_in_the_environment_alone(serve: Serve, models_dir: Path) -> None:
    imports = ScriptedImports(PACK)
    body = {"model": "https://hf.co/a/b:Q8_0", "name": "x", "endpoint": "https://mirror.example", "token": "hf_x"}
    assert call(serve, "/tpid/pull", body, imports=imports)[0] == 200
    arguments = [f"--models-dir={models_dir}", "--pull=https://hf.co/a/b:Q8_0", "--name=x"]
    assert imports.calls == [("hf.co/a/b:Q8_0", arguments)]
    assert imports.environments == [{"HF_ENDPOINT": "https://mirror.example", "HF_TOKEN": "hf_x"}]


@pytest.mark.parametrize(
    "body",
    [
        {"model": "file:///etc/passwd"},
        {"model": "hf.co/a/b", "name": "../x"},
        {"model": "hf.co/a/b", "endpoint": "ftp://x"},
        {"model": "hf.co/a/b", "token": "a\r\nHost: x"},
        {"model": "hf.co/a/b\x00"},
        {"model": "x/" + "y" * 4096},
    ],
)
def test_a_pull_of_what_cannot_be_is_refused(serve: Serve, body: dict[str, str]) -> None:
    imports = ScriptedImports(PACK)
    status, (answer,) = call(serve, "/tpid/pull", body, imports=imports)
    assert (status, answer["error"]["code"]) == (400, "request")
    assert not imports.calls


@pytest.mark.parametrize("name", ["../x", "a/b", ".x", "", "a\n", "A", "x" * 65])
@pytest.mark.parametrize("target", ["/tpid/import", "/tpid/load", "/tpid/plan", "/tpid/verify"])
def test_a_name_that_leaves_the_directory_is_refused(serve: Serve, target: str, name: str) -> None:
    body = {"path": "/m", "name": name} if target == "/tpid/import" else {"model": name}
    imports = ScriptedImports(PACK)
    status, (answer,) = call(serve, target, body, imports=imports)
    if target != "/tpid/load":  # which the engine looks up
        assert (status, answer["error"]["code"]) == (400, "request")
    assert not imports.calls


def test_an_import_that_cannot_begin_is_a_status(serve: Serve, engine: ScriptedEngine) -> None:
    imports = ScriptedImports(BusyError("a is being imported.", hint="Try again when it is done."))
    status, (answer,) = call(serve, "/tpid/import", {"path": "/m"}, imports=imports)
    assert (status, answer["error"]["code"]) == (429, "busy")
    assert engine.told_packs == 0


@pytest.mark.parametrize(("error", "code"), [(LoadError("The disk is gone."), "load"), (OSError("x"), "internal")])
def test_a_later_error_is_the_last_line(serve: Serve, error: Exception, code: str) -> None:
    status, (first, last) = call(serve, "/tpid/import", {"path": "/m"}, imports=ScriptedImports(PROGRESS, error))
    assert (status, first) == (200, PROGRESS)
    assert last["error"]["code"] == code


# --- loading


def test_loading_tells_progress_and_the_plan(serve: Serve, engine: ScriptedEngine) -> None:
    engine.load_script = [(1, 4), (4, 4)]
    status, (first, second, last) = call(serve, "/tpid/load", {"model": "m"})
    assert status == 200
    assert first == {"stage": "load", "done_bytes": 1, "total_bytes": 4}
    assert second["done_bytes"] == 4
    assert last["plan"]["term"] == plan_of("m").term


def test_while_devices_get_units_the_load_tells_of_that(serve: Serve, engine: ScriptedEngine) -> None:
    done = asyncio.Event()
    engine.load_script = [(1, 4), done, (4, 4)]
    engine.status_ = replace(engine.status_, fetches={"pi": (1, 4), "nas": (2, 8)})

    async def main() -> str:
        async with serve() as api:
            asyncio.get_running_loop().call_later(0.4, done.set)
            return (await api.text("/tpid/load", {"model": "m"}))[1]

    text = uvloop.run(main())
    first, *_, last = [json.loads(line) for line in text.splitlines()]
    assert first == {"stage": "units for nas, pi", "done_bytes": 3, "total_bytes": 12}
    assert last["plan"]["model"] == "m"


@pytest.mark.parametrize(("error", "code"), [(LoadError("desktop cannot load."), "load"), (KeyError("x"), "internal")])
def test_a_load_that_fails_says_so_in_its_last_line(
    serve: Serve, engine: ScriptedEngine, error: Exception, code: str
) -> None:
    engine.load_script = [(1, 4), error]
    _, (*_, last) = call(serve, "/tpid/load", {"model": "m"})
    assert last["error"]["code"] == code


def test_when_the_client_leaves_the_load_ends(serve: Serve, engine: ScriptedEngine) -> None:
    cancelled = asyncio.Event()

    class Waiting(asyncio.Event):
        async def wait(self) -> Any:
            try:
                return await super().wait()
            finally:
                cancelled.set()

    async def main() -> None:
        engine.load_script = [(1, 4), Waiting()]
        async with serve() as api:
            reader, writer = await api.raw()
            writer.write(b'POST /tpid/load HTTP/1.1\r\nHost: x\r\nContent-Length: 13\r\n\r\n{"model":"m"}')
            await reader.readuntil(b'"load"')
            writer.close()
            await cancelled.wait()

    uvloop.run(main())


# --- planning


def test_a_plan_as_if(serve: Serve, engine: ScriptedEngine, stored: str) -> None:
    status, (answer,) = call(serve, "/tpid/plan", {"model": stored, "memory": "2MB", "context_tokens": 64})
    assert (status, answer["plan"]["model"]) == (200, stored)
    assert engine.previews == [(stored, 2_000_000, 64)]


def test_a_context_beyond_the_models_is_refused_with_the_longest(
    serve: Serve, engine: ScriptedEngine, stored: str
) -> None:
    assert call(serve, "/tpid/plan", {"model": stored, "context_tokens": 256})[0] == 200
    status, (answer,) = call(serve, "/tpid/plan", {"model": stored, "context_tokens": 257})
    assert (status, answer["error"]["message"]) == (400, "tiny has a context of 256 tokens, not 257.")
    assert answer["error"]["hint"] == "Give at most --context 256."
    assert len(engine.previews) == 1


def test_a_helper_makes_no_plan(serve: Serve, engine: ScriptedEngine, stored: str) -> None:
    status, (answer,) = call(serve, "/tpid/plan", {"model": stored}, role=Role.HELPER)
    assert (status, answer["error"]["code"]) == (503, "not_coordinator")
    assert answer["error"]["hint"] == "Ask for the plan on a device of role user."
    assert not engine.previews


# --- verifying


def test_verifying_tells_progress_and_the_end(serve: Serve, stored: str) -> None:
    status, (*progress, last) = call(serve, "/tpid/verify", {"model": stored})
    assert status == 200
    assert {line["stage"] for line in progress} == {"verify"}
    assert last["verified"]["n_faults"] == 0


def test_a_model_that_is_not_here_is_named_with_what_is(serve: Serve, stored: str) -> None:
    for target in ("/tpid/verify", "/tpid/plan"):
        status, (answer,) = call(serve, target, {"model": "other"})
        assert (status, answer["error"]["code"]) == (404, "model_not_found")
        assert answer["error"]["hint"] == "It has tiny."

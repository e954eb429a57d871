"""The API on a real Unix socket, over a scripted engine."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from tests.unit.api.scripted import Api, ScriptedEngine, Serve, cluster_status
from tpid.api.chat import ChatEndpoint
from tpid.api.imports import Imports
from tpid.api.models import ModelEndpoints
from tpid.api.request_body import BodyReader
from tpid.api.server import make_app, serving
from tpid.api.status import StatusEndpoint
from tpid.device import Role
from tpid.pack.reader import Pack
from tpid.pack.store import PackStore


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def serve(engine: ScriptedEngine, models_dir: Path, tmp_path: Path) -> Serve:
    """`async with serve() as api`; options: `role`, `bodies`, and those of the connections."""

    @asynccontextmanager
    async def make(
        *, role: Role = Role.USER, bodies: BodyReader | None = None, imports: Any = None, **limits: Any
    ) -> AsyncIterator[Api]:
        of_engine: Any = engine
        cluster: Any = SimpleNamespace(status=cluster_status)
        models = ModelEndpoints(of_engine, PackStore(models_dir), imports or Imports(models_dir), role)
        app = make_app(ChatEndpoint(of_engine), models, StatusEndpoint(of_engine, cluster), bodies or BodyReader(4096))
        path = tmp_path / "tpid.sock"
        connector = aiohttp.UnixConnector(str(path), force_close=True)
        async with serving(app, path, **limits), aiohttp.ClientSession(connector=connector) as session:
            yield Api(path, session)

    return make


@pytest.fixture(scope="module")
def pack(random_model: Callable[..., Path], pack_of: Callable[..., Pack]) -> Pack:
    return pack_of(random_model("llama"))

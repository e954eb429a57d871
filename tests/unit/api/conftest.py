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
from tpid.api.completions import CompletionEndpoint
from tpid.api.devices import DeviceEndpoints
from tpid.api.doctor import DoctorEndpoint
from tpid.api.imports import Imports
from tpid.api.key_endpoints import KeyEndpoints
from tpid.api.keys import ApiKeys
from tpid.api.metrics import MetricsEndpoint
from tpid.api.models import ModelEndpoints
from tpid.api.ollama.endpoints import OllamaEndpoints
from tpid.api.request_body import BodyReader
from tpid.api.responses.endpoint import ResponsesEndpoint
from tpid.api.server import Endpoints, Limits, make_app, serving
from tpid.api.status import StatusEndpoint
from tpid.cluster.home import Home
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
def keys(tmp_path: Path) -> ApiKeys:
    return ApiKeys(tmp_path / "keys" / "api_keys.json")


@pytest.fixture
def make_endpoints(
    engine: ScriptedEngine, models_dir: Path, keys: ApiKeys, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Endpoints]:
    def make(role: Role = Role.USER, imports: Any = None) -> Endpoints:
        of_engine: Any = engine
        cluster: Any = SimpleNamespace(
            status=cluster_status,
            counts=lambda device: device != "stranger",
            peers={},
            strangers=lambda: [],
            addresses=lambda: ["127.0.0.1:7474"],
        )
        home = Home.load(tmp_path_factory.mktemp("state"), "desk")
        store = PackStore(models_dir)
        models = ModelEndpoints(of_engine, store, imports or Imports(), role, lambda: 4 * 10**9)
        chat, completions = ChatEndpoint(of_engine), CompletionEndpoint(of_engine)
        doctor = DoctorEndpoint(of_engine, cluster, "avx2", allowed_bytes=2**30, allowed_cores=1.0)
        devices = DeviceEndpoints(cluster, home, lambda: None)
        return Endpoints(
            chat=chat,
            completions=completions,
            models=models,
            status=StatusEndpoint(of_engine, cluster),
            keys=KeyEndpoints(keys),
            devices=devices,
            doctor=doctor,
            ollama=OllamaEndpoints(of_engine, store),
            metrics=MetricsEndpoint(of_engine, cluster),
            responses=ResponsesEndpoint(of_engine),
        )

    return make


@pytest.fixture
def endpoints(make_endpoints: Callable[..., Endpoints]) -> Endpoints:
    return make_endpoints()


@pytest.fixture
def serve(make_endpoints: Callable[..., Endpoints], tmp_path: Path) -> Serve:
    """`async with serve() as api`; options: `role`, `bodies`, and those of the connections."""

    @asynccontextmanager
    async def make(
        *, role: Role = Role.USER, bodies: BodyReader | None = None, imports: Any = None, **limits: Any
    ) -> AsyncIterator[Api]:
        app = make_app(make_endpoints(role, imports), bodies or BodyReader(4096))
        path = tmp_path / "tpid.sock"
        connector = aiohttp.UnixConnector(str(path), force_close=True)
        async with serving(app, path, Limits(**limits)), aiohttp.ClientSession(connector=connector) as session:
            yield Api(path, session)

    return make


@pytest.fixture(scope="module")
def pack(random_model: Callable[..., Path], pack_of: Callable[..., Pack]) -> Pack:
    return pack_of(random_model("llama"))

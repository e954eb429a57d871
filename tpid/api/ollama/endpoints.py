"""All of Ollama's routes."""

from aiohttp import web

from tpid.api.ollama.answers import AnswerEndpoints
from tpid.api.ollama.models import ModelEndpoints
from tpid.engine.engine import Engine
from tpid.pack.store import PackStore


class OllamaEndpoints:
    def __init__(self, engine: Engine, store: PackStore) -> None:
        self._answers = AnswerEndpoints(engine)
        self._models = ModelEndpoints(engine, store)

    def routes(self) -> list[web.RouteDef]:
        return [*self._answers.routes(), *self._models.routes()]

"""Ollama's lists of models: which there are, what one is, and which is loaded."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from tpid.api.ollama.bodies import ShowBody
from tpid.api.request_body import parse
from tpid.engine.engine import Engine
from tpid.model.thoughts import THINK_BEGIN
from tpid.pack.reader import Pack
from tpid.pack.store import PackStore

# Whose API this follows: clients ask for a least version.
OLLAMA_VERSION = "0.12.0"
_FORMAT = "tpid"  # of the files
_NEVER = datetime(9999, 1, 1, tzinfo=UTC).isoformat()  # a model stays until another is asked for


class ModelEndpoints:
    def __init__(self, engine: Engine, store: PackStore) -> None:
        self._engine = engine
        self._store = store

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/tags", self.tags),
            web.post("/api/show", self.show),
            web.get("/api/ps", self.ps),
            web.get("/api/version", self.version),
        ]

    async def tags(self, request: web.Request) -> web.Response:
        return web.json_response({"models": [_entry(pack) for pack in await asyncio.to_thread(self._packs)]})

    async def show(self, request: web.Request) -> web.Response:
        body = await parse(request, ShowBody)
        return web.json_response(await asyncio.to_thread(lambda: _shown(self._store.open(body.model))))

    async def ps(self, request: web.Request) -> web.Response:
        """The model that this device coordinates."""
        plan = self._engine.status().plan
        packs = [] if plan is None else await asyncio.to_thread(self._packs)
        loaded = [
            _entry(pack) | {"size_vram": 0, "expires_at": _NEVER, "context_length": plan.context_tokens}
            for pack in packs
            if plan is not None and pack.name == plan.model
        ]
        return web.json_response({"models": loaded})

    async def version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": OLLAMA_VERSION})

    def _packs(self) -> list[Pack]:
        return [item for item in self._store.scan() if isinstance(item, Pack)]


def _entry(pack: Pack) -> dict[str, Any]:
    return {
        "name": pack.name,
        "model": pack.name,
        "modified_at": _modified_at(pack),
        "size": pack.size_bytes,
        "digest": pack.id,
        "details": _details(pack),
    }


def _shown(pack: Pack) -> dict[str, Any]:
    """Raises PackError."""
    spec = pack.spec
    template = pack.chat_template() or ""
    of_family = {
        "context_length": spec.context_tokens,
        "embedding_length": spec.hidden_size,
        "block_count": spec.n_layers,
        "feed_forward_length": spec.ffn_size,
        "attention.head_count": spec.n_heads,
        "attention.head_count_kv": spec.n_kv_heads,
        "vocab_size": spec.vocab_size,
    }
    info: dict[str, Any] = {"general.architecture": spec.architecture, "general.parameter_count": spec.n_parameters}
    info |= {f"{spec.architecture}.{name}": value for name, value in of_family.items()}
    thinks = ["thinking"] if THINK_BEGIN in template else []
    return {
        "modelfile": "",
        "parameters": "",
        "template": template,
        "modified_at": _modified_at(pack),
        "details": _details(pack),
        "model_info": info,
        "capabilities": ["completion", "tools", *thinks],
    }


def _details(pack: Pack) -> dict[str, Any]:
    formats = sorted({format for layer in pack.manifest.layers for format in layer.ffn.formats.values()})
    return {
        "parent_model": "",
        "format": _FORMAT,
        "family": pack.spec.architecture,
        "families": [pack.spec.architecture],
        "parameter_size": _shown_count(pack.spec.n_parameters),
        "quantization_level": "+".join(formats),
    }


def _shown_count(number: int) -> str:
    """As Ollama writes it: 134.5M, 1.1B."""
    return f"{number / 1e9:.1f}B" if number >= 1e9 else f"{number / 1e6:.1f}M"


def _modified_at(pack: Pack) -> str:
    return datetime.fromtimestamp(pack.directory.stat().st_mtime, UTC).isoformat()

"""What an owner does with the models that are here: look at one, give it a second name, let it go."""

import asyncio
import logging
import math
from typing import Any

from aiohttp import web

from tpid.api.bodies import CopyBody, RemoveModelBody, ShowBody, UnloadBody
from tpid.api.request_body import parse
from tpid.download.reference import looks_remote, parse_reference
from tpid.engine.engine import Engine
from tpid.errors import ModelNotFoundError
from tpid.model.inventory import matrix_shapes, vector_shapes
from tpid.pack.changes import copy_pack, remove_directory, remove_pack
from tpid.pack.manifest import TEMPLATE_NAME
from tpid.pack.pulled import fetch_directory, source_of
from tpid.pack.reader import Pack
from tpid.pack.store import PackStore, check_name

log = logging.getLogger(__name__)

MAX_TEMPLATE_BYTES = 1 << 20


class StoredModelEndpoints:
    def __init__(self, engine: Engine, store: PackStore) -> None:
        self._engine = engine
        self._store = store

    async def show(self, request: web.Request) -> web.Response:
        body = await parse(request, ShowBody)
        pack = await asyncio.to_thread(self._store.open, check_name(body.model))
        return web.json_response(await asyncio.to_thread(_describe, pack))

    async def copy(self, request: web.Request) -> web.Response:
        body = await parse(request, CopyBody)
        pack = await asyncio.to_thread(copy_pack, self._store, check_name(body.model), check_name(body.name))
        await self._engine.tell_packs()
        log.info("model_copied name=%s new=%s", body.model, body.name)
        return web.json_response({"name": pack.name, "id": pack.id})

    async def remove(self, request: web.Request) -> web.Response:
        """A model that is loaded is let go of first. A model elsewhere: what an interrupted pull of it has left."""
        body = await parse(request, RemoveModelBody)
        if looks_remote(body.model):
            freed_bytes = await self._remove_pull(str(parse_reference(body.model)))
        else:
            name = check_name(body.model)
            plan = self._engine.status().plan
            if plan is not None and plan.model == name:
                await self._engine.unload()
            freed_bytes = await asyncio.to_thread(remove_pack, self._store, name)
            await self._engine.tell_packs()
        log.info("model_removed name=%r bytes=%d", body.model, freed_bytes)
        return web.json_response({"name": body.model, "freed_bytes": freed_bytes})

    async def unload(self, request: web.Request) -> web.Response:
        await parse(request, UnloadBody)
        return web.json_response({"unloaded": await self._engine.unload()})

    async def _remove_pull(self, reference: str) -> int:
        directory = fetch_directory(self._store.directory, reference)
        if not directory.is_dir():
            raise ModelNotFoundError(
                f"No interrupted pull of {reference} is here.", hint="A model that is here has a name: tpictl models."
            )
        return await asyncio.to_thread(remove_directory, directory)


def _describe(pack: Pack) -> dict[str, Any]:
    spec, tokens = pack.spec, pack.manifest.tokens
    formats = {format for layer in pack.manifest.layers for format in layer.attn.formats.values()}
    shapes = [*matrix_shapes(spec).values(), *vector_shapes(spec).values()]
    return {
        "name": pack.name,
        "id": pack.id,
        "architecture": spec.architecture,
        "parameters": sum(math.prod(shape) for shape in shapes),
        "layers": spec.n_layers,
        "hidden_size": spec.hidden_size,
        "heads": spec.n_heads,
        "kv_heads": spec.n_kv_heads,
        "vocabulary": spec.vocab_size,
        "context_tokens": spec.context_tokens,
        "formats": sorted(formats),
        "size_bytes": pack.size_bytes,
        "source": source_of(pack),
        "sampling": pack.sampling_defaults.as_json(),
        "eos_ids": tokens.eos_ids,
        "chat_template": _template(pack),
    }


def _template(pack: Pack) -> str | None:
    try:
        with (pack.directory / TEMPLATE_NAME).open("rb") as file:
            return file.read(MAX_TEMPLATE_BYTES).decode(errors="replace")
    except OSError:
        return None

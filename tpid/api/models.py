"""Models on this device: listing, importing, pulling, loading."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from aiohttp import web

from tpid.api.bodies import ImportBody, LoadBody, PlanBody, PullBody, VerifyBody
from tpid.api.faults import INTERNAL_FAULT, describe
from tpid.api.imports import Imports
from tpid.api.lines import stream_lines
from tpid.api.request_body import parse
from tpid.api.stored_models import StoredModelEndpoints
from tpid.api.verification import Verifications
from tpid.device import Role
from tpid.download.reference import looks_remote, parse_reference
from tpid.engine.engine import Engine
from tpid.errors import NotCoordinatorError, RequestError, TpidError
from tpid.model.catalogue import CATALOGUE, CatalogueEntry, Package, default_model
from tpid.pack.fetch import catalogue_entry
from tpid.pack.reader import Pack
from tpid.pack.store import Damaged, PackStore, check_name, name_from_path

_FETCH_LOOK_S: Final = 0.25  # between two lines about units that devices get from others

log = logging.getLogger(__name__)


class ModelEndpoints:
    def __init__(
        self, engine: Engine, store: PackStore, imports: Imports, role: Role, home_bytes: Callable[[], int]
    ) -> None:
        """`role`: of this device, which says whether it plans. `home_bytes`: what all devices may take now."""
        self._home_bytes = home_bytes
        self._role = role
        self._engine = engine
        self._store = store
        self._imports = imports
        self._verifications = Verifications()
        self.stored = StoredModelEndpoints(engine, store)

    async def list_packs(self, request: web.Request) -> web.Response:
        found = await asyncio.to_thread(self._store.scan)
        return web.json_response(
            {
                "models": [_describe(item) for item in found],
                "catalogue": {name: describe_entry(entry) for name, entry in CATALOGUE.items()},
                "default": default_model(self._home_bytes()),
            }
        )

    async def list_openai(self, request: web.Request) -> web.Response:
        packs = [item for item in await asyncio.to_thread(self._store.scan) if isinstance(item, Pack)]
        return web.json_response({"object": "list", "data": [_openai(pack) for pack in packs]})

    async def get_openai(self, request: web.Request) -> web.Response:
        pack = await asyncio.to_thread(self._store.open, request.match_info["id"])
        return web.json_response(_openai(pack))

    async def import_(self, request: web.Request) -> web.StreamResponse:
        body = await parse(request, ImportBody)
        name = check_name(body.name) if body.name is not None else name_from_path(Path(body.path))
        target = f"--target={self._store.path(name)}"
        return await self._run(request, name, [target, f"--path={body.path}", *_options(body)])

    async def pull(self, request: web.Request) -> web.StreamResponse:
        body = await parse(request, PullBody)
        shown = str(parse_reference(body.model)) if looks_remote(body.model) else check_name(body.model)
        if not looks_remote(body.model):
            catalogue_entry(body.model)
        arguments = [f"--models-dir={self._store.directory}", f"--pull={body.model}", *_options(body)]
        if body.name is not None:
            arguments.append(f"--name={check_name(body.name)}")
        # Not among the arguments, which every user of the machine can read.
        environment = {"HF_ENDPOINT": body.endpoint, "HF_TOKEN": body.token}
        given = {key: value for key, value in environment.items() if value is not None}
        return await self._run(request, shown, arguments, given)

    async def load(self, request: web.Request) -> web.StreamResponse:
        """Lines of JSON: progress, then {"plan": …} or {"error": …}.

        While devices get units of the model from others, that is what takes time, and the progress is theirs.
        """
        body = await parse(request, LoadBody)
        lines: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

        def progress(done_bytes: int, total_bytes: int) -> None:
            if not self._engine.status().fetches:
                lines.put_nowait({"stage": "load", "done_bytes": done_bytes, "total_bytes": total_bytes})

        async def load() -> None:
            try:
                lines.put_nowait({"plan": asdict(await self._engine.load(body.model, progress))})
            except TpidError as error:
                lines.put_nowait({"error": describe(error)})
            except Exception:
                log.exception("load_failed model=%r", body.model)
                lines.put_nowait({"error": INTERNAL_FAULT})

        async def until_done() -> AsyncGenerator[dict[str, Any], None]:
            task = asyncio.create_task(load(), name="load")
            try:
                while True:
                    try:
                        line = await asyncio.wait_for(lines.get(), _FETCH_LOOK_S)
                    except TimeoutError:
                        if fetches := self._engine.status().fetches:
                            yield _fetch_line(fetches)
                        continue
                    yield line
                    if "plan" in line or "error" in line:
                        return
            finally:
                task.cancel()
                await asyncio.wait([task])

        return await stream_lines(request, until_done())

    async def plan(self, request: web.Request) -> web.Response:
        """What a request would be planned with now; nothing is loaded."""
        body = await parse(request, PlanBody)
        if self._role is Role.HELPER:
            raise NotCoordinatorError(
                "This device is a helper: it computes for others, and makes no plan.",
                hint="Ask for the plan on a device of role user.",
            )
        pack = await asyncio.to_thread(self._store.open, body.model)
        if body.context_tokens is not None and body.context_tokens > pack.spec.context_tokens:
            raise RequestError(
                f"{body.model} has a context of {pack.spec.context_tokens} tokens, not {body.context_tokens}.",
                hint=f"Give at most --context {pack.spec.context_tokens}.",
            )
        preview = await self._engine.preview(body.model, body.memory, body.context_tokens)
        return web.json_response(asdict(preview))

    async def verify(self, request: web.Request) -> web.StreamResponse:
        """Lines of JSON: progress and faults, then {"verified": …}."""
        body = await parse(request, VerifyBody)
        pack = await asyncio.to_thread(self._store.open, body.model)
        return await stream_lines(request, self._verifications.run(pack))

    async def _run(
        self,
        request: web.Request,
        name: str,
        arguments: list[str],
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> web.StreamResponse:
        return await stream_lines(request, self._import_lines(name, arguments, environment))

    async def _import_lines(
        self, name: str, arguments: list[str], environment: Mapping[str, str]
    ) -> AsyncGenerator[dict[str, Any], None]:
        async with aclosing(self._imports.run(name, arguments, environment)) as lines:
            async for line in lines:
                if "pack" in line:
                    await self._engine.tell_packs()
                yield line


def _fetch_line(fetches: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """What all devices get together."""
    done_bytes, total_bytes = (sum(bytes) for bytes in zip(*fetches.values(), strict=True))
    return {"stage": f"units for {', '.join(sorted(fetches))}", "done_bytes": done_bytes, "total_bytes": total_bytes}


def _options(body: ImportBody | PullBody) -> list[str]:
    options = ["--format", body.format] if body.format is not None else []
    return [*options, "--replace"] if body.replace else options


def describe_entry(entry: CatalogueEntry) -> dict[str, Any]:
    """Sizes are estimates but for packages, of which the registry tells them."""
    return {
        "about": entry.about,
        "licence": entry.licence,
        "quantization": entry.quantization,
        "size_bytes": entry.size_bytes,
        "memory_bytes": entry.memory_bytes,
        "source": None if isinstance(entry.source, Package) else entry.source,
    }


def _openai(pack: Pack) -> dict[str, Any]:
    return {"id": pack.name, "object": "model", "created": 0, "owned_by": "tpid"}


def _describe(item: Pack | Damaged) -> dict[str, Any]:
    if isinstance(item, Damaged):
        return {"name": item.name, "damaged": item.reason}
    spec = item.spec
    formats = sorted({format for layer in item.manifest.layers for format in layer.attn.formats.values()})
    return {
        "name": item.name,
        "id": item.id,
        "architecture": spec.architecture,
        "layers": spec.n_layers,
        "hidden_size": spec.hidden_size,
        "context_tokens": spec.context_tokens,
        "formats": formats,
        "size_bytes": item.size_bytes,
    }

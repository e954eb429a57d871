"""The API on a real Unix socket, over an engine whose answers are written down."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp

from tpid.cluster.status import ClusterStatus
from tpid.engine.engine import EngineStatus
from tpid.engine.generation import Finished, GenerationRequest, GenerationStats, Text
from tpid.engine.journal import Journal
from tpid.engine.work import Work
from tpid.pack.manifest import PackId
from tpid.plan.plan import Plan

STATS = GenerationStats(prompt_tokens=7, cached_tokens=2, completion_tokens=3, ttft_s=0.5, decode_s=0.2, queue_s=0.25)
ANSWER = (Text("Hel"), Text("lo"), Finished("stop", STATS))


@dataclass
class ScriptedEngine:
    """Yields the script; an exception in it is raised there, an event waited for, a function called with the work."""

    script: list[Any] = field(default_factory=lambda: list(ANSWER))
    load_script: list[Any] = field(default_factory=list)
    endless: Text | None = None  # yielded again and again, before the script
    n_endless: int = 0
    requests: list[GenerationRequest] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    previews: list[tuple[str, int | None, int | None]] = field(default_factory=list)
    told_packs: int = 0
    n_unloaded: int = 0
    journal: Journal = field(default_factory=Journal)
    running: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)  # when no answer runs any more
    status_: EngineStatus = field(default_factory=lambda: EngineStatus(None, None, False, 0, None, {}))

    async def answer(
        self, model: str, request: GenerationRequest, work: Work | None = None
    ) -> AsyncGenerator[Text | Finished, None]:
        self.models.append(model)
        self.requests.append(request)
        self.running += 1
        try:
            while self.endless is not None:
                self.n_endless += 1
                yield self.endless
                await asyncio.sleep(0)
            for item in self.script * request.n:
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, asyncio.Event):
                    await item.wait()
                elif callable(item):
                    item(work)
                else:
                    yield item
        finally:
            self.running -= 1
            self.ended.set()

    async def load(self, model: str, progress: Callable[[int, int], None]) -> Plan:
        self.models.append(model)
        for item in self.load_script:
            if isinstance(item, Exception):
                raise item
            if isinstance(item, asyncio.Event):
                await item.wait()
            else:
                progress(*item)
        return plan_of(model)

    async def unload(self) -> str | None:
        plan, self.status_ = self.status_.plan, replace(self.status_, plan=None)
        self.n_unloaded += 1
        return plan.model if plan is not None else None

    async def preview(self, model: str, memory_bytes: int | None, context_tokens: int | None) -> Any:
        self.previews.append((model, memory_bytes, context_tokens))
        return SimplePreview(plan_of(model))

    async def tell_packs(self) -> None:
        self.told_packs += 1

    def status(self) -> EngineStatus:
        return self.status_


@dataclass
class Api:
    """`request` is one call, on a connection of its own; `raw` a socket to write bytes into."""

    path: Path
    session: aiohttp.ClientSession

    async def request(self, target: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        status, text = await self.text(target, body, **options)
        return status, json.loads(text)

    async def text(self, target: str, body: Any = None, **options: Any) -> tuple[int, str]:
        data = (
            json.dumps(body).encode() if isinstance(body, dict | list) else body
        )  # or as it is: bytes, pieces of them
        method = options.pop("method", "GET" if data is None else "POST")
        async with self.session.request(method, f"http://tpid{target}", data=data, **options) as response:
            return response.status, await response.text()

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(str(self.path))


@dataclass
class SimplePreview:
    plan: Plan


def plan_of(model: str) -> Plan:
    return Plan(
        term=3,
        pack=PackId("ab"),
        model=model,
        ranks=(),
        left_out=(),
        context_tokens=128,
        max_pass_tokens=16,
        n_slots=1,
        wire_dtype="fp32",
        direct_tokens=4,
    )


def cluster_status() -> ClusterStatus:
    return ClusterStatus(
        cluster="home",
        devices=(),
        coordinator=None,
        term=0,
        busy=False,
        discovery="off",
        sighted=(),
        failed=(),
        n_other_clusters=0,
        n_unreadable=0,
    )


Serve = Callable[..., AbstractAsyncContextManager[Api]]

"""A daemon that follows a script: aiohttp on a Unix socket in a thread, with bodies and answers of the real form."""

import asyncio
import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tpid.api.bodies import (
    CopyBody,
    ImportBody,
    KeyBody,
    LoadBody,
    PlanBody,
    PullBody,
    RemoveBody,
    RemoveModelBody,
    ShowBody,
    UnloadBody,
    VerifyBody,
)
from tpid.api.chat_body import ChatBody
from tpid.api.models import describe_entry
from tpid.cluster.status import ClusterStatus, DeviceStatus, FailedDial, SightedDevice
from tpid.device import DeviceId, DeviceProfile, Role
from tpid.model.catalogue import CATALOGUE
from tpid.pack.geometry import Share, UnitRange
from tpid.pack.manifest import PackId
from tpid.plan.plan import LeftOut, Plan, Rank
from tpid.plan.predict import Bottleneck, Forecast, Limit, RankForecast

START_TIMEOUT_S = 30.0
MB, GB = 10**6, 10**9
LAPTOP, DESKTOP, PHONE = (DeviceId(character * 32) for character in "abc")


@dataclass
class FakeDaemon:
    """Set the fields, then call; `requests` has what came."""

    path: Path
    status: dict[str, Any]
    models: dict[str, Any]
    plan: dict[str, Any]
    preview: dict[str, Any]
    pieces: list[Any] = field(default_factory=lambda: ["Hel", "lö, ", "world."])
    load_lines: list[dict[str, Any]] = field(default_factory=list)
    import_lines: list[dict[str, Any]] = field(default_factory=list)
    verify_lines: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    shown: dict[str, Any] = field(default_factory=dict)
    unloaded: str | None = None
    refusal: tuple[int, bytes] | None = None  # of everything: status and body
    tokens_a_word: int | None = None  # of a prompt, behind 10 of the template; without it all prompts have 34 tokens
    progress: list[dict[str, Any]] = field(default_factory=list)  # chunks before the answer, where they are asked for
    hang_after: int | None = None  # pieces; then nothing until the client is gone
    hang_in_status: bool = False
    hang_in_chat: int | None = None  # hang_after is for this chat alone, counted from 0
    die_after: int | None = None  # pieces; then the connection is cut
    fail_after: int | None = None  # pieces; then an error
    write_bytes: int | None = None  # how much of an answer is written at once
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    asked: threading.Event = field(default_factory=threading.Event)  # for the status
    hanging: threading.Event = field(default_factory=threading.Event)
    client_gone: threading.Event = field(default_factory=threading.Event)

    def body(self, target: str) -> dict[str, Any]:
        """Of the last request to `target`."""
        return [body for path, body in self.requests if path == target][-1]

    # --- life

    def start(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._thread.start()
        assert self._up.wait(START_TIMEOUT_S)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
        self._loop.close()

    def wait_for_status(self, times: int) -> None:
        """Until the status was asked for so many times more."""
        for _ in range(times):
            self.asked.clear()
            assert self.asked.wait(START_TIMEOUT_S)

    def resume(self) -> None:
        """Go on with what hangs."""
        assert self.hanging.wait(START_TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._resumed.set)

    async def _serve(self) -> None:
        self._stopped = asyncio.Event()
        app = web.Application(client_max_size=32 << 20, middlewares=[self._refuse])
        app.router.add_get("/tpid/status", self._status)
        app.router.add_get("/tpid/models", self._models)
        app.router.add_post("/tpid/load", self._load)
        app.router.add_post("/tpid/plan", self._plan)
        app.router.add_post("/tpid/verify", self._verify)
        app.router.add_post("/tpid/import", self._import)
        app.router.add_post("/tpid/pull", self._pull)
        app.router.add_post("/tpid/models/show", self._show)
        app.router.add_post("/tpid/models/copy", self._copy)
        app.router.add_post("/tpid/models/remove", self._remove_model)
        app.router.add_post("/tpid/unload", self._unload)
        app.router.add_post("/tpid/devices/remove", self._remove_device)
        app.router.add_get("/tpid/keys", self._list_keys)
        app.router.add_post("/tpid/keys/create", self._create_key)
        app.router.add_post("/tpid/keys/revoke", self._revoke_key)
        app.router.add_post("/v1/chat/completions", self._chat)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.UnixSite(runner, str(self.path)).start()
        self._up.set()
        await self._stopped.wait()
        await runner.cleanup()

    # --- handlers

    @web.middleware
    async def _refuse(self, request: web.Request, handler: Callable[..., Any]) -> Any:
        if self.refusal is not None:
            status, body = self.refusal
            return web.Response(status=status, body=body, content_type="application/json")
        return await handler(request)

    async def _status(self, request: web.Request) -> web.Response:
        if self.hang_in_status:
            await self._hang()
        self.asked.set()
        return web.json_response(self.status)

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response(self.models)

    async def _show(self, request: web.Request) -> web.Response:
        await self._take(request, ShowBody)
        return web.json_response(self.shown)

    async def _copy(self, request: web.Request) -> web.Response:
        body = await self._take(request, CopyBody)
        return web.json_response({"name": body.name, "id": "0"})

    async def _remove_model(self, request: web.Request) -> web.Response:
        body = await self._take(request, RemoveModelBody)
        return web.json_response({"name": body.model, "freed_bytes": 98 * 10**6})

    async def _unload(self, request: web.Request) -> web.Response:
        await self._take(request, UnloadBody)
        return web.json_response({"unloaded": self.unloaded})

    async def _remove_device(self, request: web.Request) -> web.Response:
        body = await self._take(request, RemoveBody)
        return web.json_response({"removed": {"name": body.name}})

    async def _list_keys(self, request: web.Request) -> web.Response:
        return web.json_response({"keys": [{"name": name, "created_s": 1_700_000_000} for name in self.keys]})

    async def _create_key(self, request: web.Request) -> web.Response:
        body = await self._take(request, KeyBody)
        return web.json_response({"name": body.name, "key": "tpid-secret"})

    async def _revoke_key(self, request: web.Request) -> web.Response:
        body = await self._take(request, KeyBody)
        return web.json_response({"revoked": body.name})

    async def _load(self, request: web.Request) -> web.StreamResponse:
        await self._take(request, LoadBody)
        return await self._lines(request, [*self.load_lines, {"plan": self.plan}])

    async def _plan(self, request: web.Request) -> web.Response:
        await self._take(request, PlanBody)
        return web.json_response(self.preview)

    async def _verify(self, request: web.Request) -> web.StreamResponse:
        await self._take(request, VerifyBody)
        return await self._lines(request, self.verify_lines)

    async def _import(self, request: web.Request) -> web.StreamResponse:
        await self._take(request, ImportBody)
        return await self._lines(request, self.import_lines)

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        await self._take(request, PullBody)
        return await self._lines(request, self.import_lines)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await self._take(request, ChatBody)
        assert body.stream
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for told in self.progress if body.progress_is_told else []:
            await self._event(response, {"choices": [], **told})
        await self._event(response, {"choices": [_choice({"role": "assistant", "content": ""})]})
        n_chats = sum(target == request.path for target, _ in self.requests)
        hangs = self.hang_in_chat in (None, n_chats - 1)
        for number, piece in enumerate([*self.pieces, None]):
            if number == self.hang_after and hangs:
                await self._hang()
            if number == self.die_after:
                request.transport.abort()  # type: ignore[union-attr]
                return response
            if number == self.fail_after:
                fault = {"code": "device_lost", "message": "desktop is gone.", "hint": "Switch it on."}
                await self._event(response, {"error": fault})
                return response
            if isinstance(piece, dict):
                await self._event(response, {"choices": [], **piece})
            elif piece is not None:
                await self._event(response, {"choices": [_choice({"content": piece})]})
        words = body.messages[-1].content.split()
        prompt_tokens = 34 if self.tokens_a_word is None else 10 + len(words) * self.tokens_a_word
        numbers = _numbers(prompt_tokens, len(self.pieces))
        await self._event(response, {"choices": [_choice({}, "stop")]})
        if body.usage_is_told:
            await self._event(response, {"choices": [], **numbers})
        await self._write(response, b"data: [DONE]\n\n")
        return response

    async def _take(self, request: web.Request, kind: Any) -> Any:
        """The body, as the real daemon checks it."""
        data = await request.read()
        self.requests.append((request.path, json.loads(data)))
        return kind.model_validate_json(data)

    async def _lines(self, request: web.Request, lines: list[dict[str, Any]]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        for number, line in enumerate(lines):
            if number == self.hang_after:
                await self._hang()
            await self._write(response, json.dumps(line).encode() + b"\n")
        return response

    async def _event(self, response: web.StreamResponse, data: dict[str, Any]) -> None:
        await self._write(response, b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n")

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        step = self.write_bytes or len(data)
        for start in range(0, len(data), step):
            await response.write(data[start : start + step])

    async def _hang(self) -> None:
        self._resumed = asyncio.Event()
        self.hanging.set()
        try:
            await self._resumed.wait()
        except asyncio.CancelledError:
            self.client_gone.set()
            raise


def _choice(delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason}


def _numbers(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 20},
    }
    return {"usage": usage, "timings": {"ttft_s": 0.431, "tpot_s": 0.042, "tokens_s": 23.8}}


def _profile(id: DeviceId, name: str, role: Role, gib: int) -> DeviceProfile:
    return DeviceProfile(
        id=id,
        name=name,
        role=role,
        version="0.1.0",
        ram_bytes=gib * GB,
        budget_bytes=gib * GB // 2,
        disk_free_bytes=100 * GB,
        threads=4,
        read_bytes_s=8e9,
        backend="torch",
    )


@pytest.fixture
def plan_json() -> dict[str, Any]:
    """A plan of the real kind: laptop coordinates, desktop helps, phone is left out."""
    plan = Plan(
        term=7,
        pack=PackId("0" * 64),
        model="smollm2-135m",
        ranks=(
            Rank(LAPTOP, "laptop", Share(UnitRange(0, 1), UnitRange(0, 18)), 300 * MB),
            Rank(DESKTOP, "desktop", Share(UnitRange(1, 3), UnitRange(18, 48)), 200 * MB),
        ),
        left_out=(LeftOut(PHONE, "phone", "it does not have this model"),),
        context_tokens=4096,
        max_pass_tokens=128,
        n_slots=1,
        wire_dtype="fp32",
        direct_tokens=4,
    )
    return _as_sent(asdict(plan))


@pytest.fixture
def preview_json(plan_json: dict[str, Any]) -> dict[str, Any]:
    """What the daemon promises of that plan: the laptop streams, the desktop holds all of its share."""
    laptop = RankForecast(
        LAPTOP,
        "laptop",
        "native",
        budget_bytes=300 * MB,
        memory_bytes=299 * MB,
        base_bytes=120 * MB,
        kv_bytes=40 * MB,
        activation_bytes=9 * MB,
        resident_bytes=100 * MB,
        window_bytes=30 * MB,
        streamed_bytes=60 * MB,
        compute_s=0.004,
        disk_s=0.04,
        disk_bytes_s=1.5e9,
    )
    desktop = replace(
        laptop,
        device=DESKTOP,
        name="desktop",
        budget_bytes=16 * GB,
        memory_bytes=269 * MB,
        window_bytes=0,
        streamed_bytes=0,
    )
    forecast = Forecast(
        tpot_s=0.04,
        tpot_limit=Bottleneck(Limit.DISK, "laptop"),
        ttft_s=1.9,
        ttft_limit=Bottleneck(Limit.COMPUTE, "desktop"),
        prompt_tokens=2048,
        walks=16,
        link_s=0.001,
        ranks=(laptop, desktop),
    )
    return _as_sent({"plan": plan_json, "forecast": asdict(forecast)})


@pytest.fixture
def status_json(plan_json: dict[str, Any]) -> dict[str, Any]:
    """What the real daemon would tell: one device left out, one refused, one sighted."""
    devices = (
        DeviceStatus(_profile(LAPTOP, "laptop", Role.USER, 8), "127.0.0.1:7474", None, True, True, True),
        DeviceStatus(_profile(DESKTOP, "desktop", Role.HELPER, 32), "127.0.0.1:41002", 0.00018, False, False, True),
        DeviceStatus(_profile(PHONE, "phone", Role.HELPER, 4), "127.0.0.1:41003", None, False, False, True),
    )
    cluster = ClusterStatus(
        cluster="home",
        devices=devices,
        coordinator=LAPTOP,
        term=7,
        busy=True,
        discovery="on: announced on 127.0.0.1",
        sighted=(SightedDevice(DeviceId("d" * 64), "tablet", "127.0.0.1:41004", 2),),
        failed=(FailedDial("127.0.0.1:41005", "attic", "version_mismatch", "It speaks version 2."),),
        n_other_clusters=1,
        n_unreadable=0,
    )
    last = {"prompt_tokens": 34, "cached_tokens": 20, "completion_tokens": 3, "ttft_s": 0.431, "decode_s": 0.084}
    return _as_sent(
        {
            "cluster": asdict(cluster),
            "time_s": 1_000_000.0,
            "plan": plan_json,
            "holding": None,
            "busy": True,
            "waiting_requests": 2,
            "last": last | {"tpot_s": 0.042, "tokens_s": 23.8},
            "memory_bytes": 700 * MB,
        }
    )


@pytest.fixture
def models_json() -> dict[str, Any]:
    sound = {
        "name": "smollm2-135m",
        "id": "0" * 64,
        "architecture": "llama",
        "layers": 30,
        "hidden_size": 576,
        "context_tokens": 8192,
        "formats": ["w4"],
        "size_bytes": 98 * MB,
    }
    catalogue = {name: describe_entry(entry) for name, entry in CATALOGUE.items()}
    return {"models": [sound], "catalogue": catalogue, "default": "smollm2-135m"}


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """Unix sockets have short paths; pytest's own directories may be too deep."""
    with tempfile.TemporaryDirectory(prefix="tpictl-") as directory:
        yield Path(directory)


@pytest.fixture
def daemon(
    short_directory: Path,
    status_json: dict[str, Any],
    models_json: dict[str, Any],
    plan_json: dict[str, Any],
    preview_json: dict[str, Any],
) -> Iterator[FakeDaemon]:
    fake = FakeDaemon(short_directory / "tpid.sock", status_json, models_json, plan_json, preview_json)
    fake.start()
    try:
        yield fake
    finally:
        fake.stop()


def _as_sent(data: dict[str, Any]) -> dict[str, Any]:
    sent: dict[str, Any] = json.loads(json.dumps(data))
    return sent

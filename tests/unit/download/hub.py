"""A server that behaves like the hub, in a thread, on loopback: listings, redirects, ranges, gates, faults."""

import asyncio
import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

START_TIMEOUT_S = 30.0
TOKEN = "hf_good"


@dataclass(frozen=True)
class Fault:
    """What happens to one request for a file's bytes, instead of an answer."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut_after: int | None = None  # bytes of the answer
    stall_after: int | None = None


@dataclass
class FakeHub:
    """Set the fields, then fetch; `requests` has what came: path, range, and whether the token was with it."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    granted: bool = True  # the token's account, for those
    private: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)  # for the next requests for bytes, one each
    listing_faults: list[Fault] = field(default_factory=list)
    ranges: bool = True
    digests: bool = True
    etags: bool = True
    page_files: int = 1000
    served: dict[str, bytes] = field(default_factory=dict)  # instead of a repository's own bytes
    on_bytes: Callable[[str], None] = lambda path: None
    requests: list[tuple[str, str | None, bool]] = field(default_factory=list)
    sent_bytes: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def paths(self, start: str) -> list[str]:
        return [path for path, _, _ in self.requests if path.startswith(start)]

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

    async def _serve(self) -> None:
        self._stopped = asyncio.Event()
        app = web.Application(middlewares=[self._remember])
        app.router.add_get("/api/models/{owner}/{name}/tree/{revision}", self._tree)
        app.router.add_get("/{owner}/{name}/resolve/{revision}/{path:.+}", self._resolve)
        app.router.add_get("/cdn/{owner}/{name}/{path:.+}", self._bytes)
        app.router.add_get("/loop", self._loop_for_ever)
        app.router.add_get("/leads/{to:.+}", self._lead)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self._port = runner.addresses[0][1]
        self._up.set()
        await self._stopped.wait()
        await runner.cleanup()

    # --- handlers

    @web.middleware
    async def _remember(self, request: web.Request, handler: Callable[..., Any]) -> Any:
        has_token = "Authorization" in request.headers
        self.requests.append((request.path, request.headers.get("Range"), has_token))
        return await handler(request)

    def _refusal(self, request: web.Request, repo: str, *, of_bytes: bool) -> web.Response | None:
        token = request.headers.get("Authorization")
        if token is not None and token != f"Bearer {TOKEN}":
            return web.json_response({"error": "Invalid credentials"}, status=401)
        if repo not in self.repos or (repo in self.private and token is None):
            return web.json_response({"error": "x"}, status=401, headers={"X-Error-Code": "RepoNotFound"})
        if of_bytes and repo in self.gated and (token is None or not self.granted):
            status = 401 if token is None else 403
            return web.json_response({"error": "x"}, status=status, headers={"X-Error-Code": "GatedRepo"})
        return None

    async def _tree(self, request: web.Request) -> web.StreamResponse:
        if self.listing_faults:
            fault = self.listing_faults.pop(0)
            return web.Response(status=fault.status or 500, headers=fault.headers, body=fault.body)
        repo = f"{request.match_info['owner']}/{request.match_info['name']}"
        refusal = self._refusal(request, repo, of_bytes=False)
        if refusal is not None:
            return refusal
        start = int(request.query.get("cursor", "0"))
        files = list(self.repos[repo].items())
        entries: list[dict[str, Any]] = [{"type": "directory", "path": "x", "size": 0, "oid": "1" * 40}]
        for path, data in files[start : start + self.page_files]:
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": "2" * 40}
            if self.digests and len(data) > 100:
                entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 135}
            entries.append(entry)
        headers = {}
        if start + self.page_files < len(files):
            following = request.url.update_query(cursor=str(start + self.page_files))
            headers["Link"] = f'<{following}>; rel="next"'
        return web.Response(text=json.dumps(entries), content_type="application/json", headers=headers)

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        repo, path = f"{request.match_info['owner']}/{request.match_info['name']}", request.match_info["path"]
        refusal = self._refusal(request, repo, of_bytes=True)
        if refusal is not None:
            return refusal
        if path not in self.repos[repo]:
            return web.Response(status=404, headers={"X-Error-Code": "EntryNotFound"})
        headers = {"Location": f"http://localhost:{self._port}/cdn/{repo}/{path}?signature=x"}  # another origin
        if self.digests:
            headers["X-Linked-Etag"] = f'"{hashlib.sha256(self.repos[repo][path]).hexdigest()}"'
        return web.Response(status=302, headers=headers)

    async def _bytes(self, request: web.Request) -> web.StreamResponse:
        repo, path = f"{request.match_info['owner']}/{request.match_info['name']}", request.match_info["path"]
        data = self.served.get(path, self.repos[repo][path])
        tag = f'"{hashlib.md5(data).hexdigest()}"'
        probe = request.headers.get("Range") == "bytes=0-0"
        self.on_bytes(request.headers.get("Range", ""))
        fault = self.faults.pop(0) if self.faults and not probe else Fault()
        if fault.status is not None:
            return web.Response(status=fault.status, headers=fault.headers)
        headers = {"ETag": tag} if self.etags else {}
        status, body = 200, data
        unchanged = request.headers.get("If-Range", tag) == tag
        if self.ranges and request.http_range.start is not None and unchanged:
            start, stop = request.http_range.start, min(request.http_range.stop or len(data), len(data))
            if start >= len(data):
                return web.Response(status=416, headers={"Content-Range": f"bytes */{len(data)}"})
            status, body = 206, data[start:stop]
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        return await self._send(request, status, headers, body, fault)

    async def _send(
        self, request: web.Request, status: int, headers: dict[str, str], body: bytes, fault: Fault
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = len(body)
        await response.prepare(request)
        end = fault.cut_after if fault.cut_after is not None else fault.stall_after
        piece = body if end is None else body[:end]
        await response.write(piece)
        self.sent_bytes += len(piece)
        if fault.stall_after is not None:
            await self._stopped.wait()
        if fault.cut_after is not None and request.transport is not None:
            request.transport.abort()
        return response

    async def _loop_for_ever(self, request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "/loop"})

    async def _lead(self, request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": request.match_info["to"]})

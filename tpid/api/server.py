"""What is served where, and the server on the Unix socket."""

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from tpid.api.access import HEALTH, Access
from tpid.api.chat import ChatEndpoint
from tpid.api.completions import CompletionEndpoint
from tpid.api.connections import MAX_CONNECTIONS, UNREAD_TIMEOUT_S, Connections
from tpid.api.devices import DeviceEndpoints
from tpid.api.doctor import DoctorEndpoint
from tpid.api.embeddings import refuse_embeddings
from tpid.api.faults import HttpLog, faults
from tpid.api.key_endpoints import KeyEndpoints
from tpid.api.metrics import MetricsEndpoint
from tpid.api.models import ModelEndpoints
from tpid.api.ollama.endpoints import OllamaEndpoints
from tpid.api.request_body import BODIES, BodyReader
from tpid.api.responses.endpoint import ResponsesEndpoint
from tpid.api.status import StatusEndpoint
from tpid.errors import ListenError

log = logging.getLogger(__name__)

HEAD_TIMEOUT_S = 15.0  # for a complete head, from connecting or from the answer before
SHUTDOWN_TIMEOUT_S = 2.0  # what an answer under way is given to end, when the daemon stops
BACKLOG = 1024  # connections that may wait to be taken, or to be told that there are too many
_MAX_PATH_BYTES = 107  # of sockaddr_un on Linux, without the closing zero


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the connections to one address."""

    head_timeout_s: float = HEAD_TIMEOUT_S
    unread_timeout_s: float = UNREAD_TIMEOUT_S
    max_connections: int = MAX_CONNECTIONS


@dataclass(frozen=True, slots=True)
class Endpoints:
    chat: ChatEndpoint
    completions: CompletionEndpoint
    models: ModelEndpoints
    status: StatusEndpoint
    keys: KeyEndpoints
    devices: DeviceEndpoints
    doctor: DoctorEndpoint
    ollama: OllamaEndpoints
    metrics: MetricsEndpoint
    responses: ResponsesEndpoint


def make_app(endpoints: Endpoints, bodies: BodyReader) -> web.Application:
    """For the Unix socket: models answer, and the daemon is controlled."""
    models, keys, devices = endpoints.models, endpoints.keys, endpoints.devices
    app = web.Application(middlewares=[faults])
    app[BODIES] = bodies
    app.add_routes(
        [
            *_public_routes(endpoints),
            web.get("/tpid/status", endpoints.status.get),
            web.get("/tpid/models", models.list_packs),
            web.post("/tpid/import", models.import_),
            web.post("/tpid/pull", models.pull),
            web.post("/tpid/models/show", models.stored.show),
            web.post("/tpid/models/copy", models.stored.copy),
            web.post("/tpid/models/remove", models.stored.remove),
            web.post("/tpid/load", models.load),
            web.post("/tpid/unload", models.stored.unload),
            web.post("/tpid/plan", models.plan),
            web.post("/tpid/verify", models.verify),
            web.get("/tpid/devices", devices.list_),
            web.get("/tpid/doctor", endpoints.doctor.get),
            web.post("/tpid/devices/remove", devices.remove),
            web.post("/tpid/invite", devices.invite),
            web.post("/tpid/join", devices.join),
            web.post("/tpid/leave", devices.leave),
            web.get("/tpid/keys", keys.list),
            web.post("/tpid/keys/create", keys.create),
            web.post("/tpid/keys/revoke", keys.revoke),
        ]
    )
    return app


def make_public_app(endpoints: Endpoints, bodies: BodyReader, access: Access) -> web.Application:
    """For TCP: models answer whom `access` lets in."""
    app = web.Application(middlewares=[faults, access.check])
    app[BODIES] = bodies
    app.on_response_prepare.append(access.allow_origin)
    app.add_routes(_public_routes(endpoints))
    return app


def _public_routes(endpoints: Endpoints) -> list[web.RouteDef]:
    models = endpoints.models
    return [
        web.get(HEALTH, endpoints.status.health),
        web.get("/metrics", endpoints.metrics.get),
        web.post("/v1/chat/completions", endpoints.chat.post),
        web.post("/v1/completions", endpoints.completions.post),
        web.post("/v1/responses", endpoints.responses.post),
        web.post("/v1/embeddings", refuse_embeddings),
        web.get("/v1/models", models.list_openai),
        web.get("/v1/models/{id}", models.get_openai),
        *endpoints.ollama.routes(),
    ]


@asynccontextmanager
async def serving(app: web.Application, path: Path, limits: Limits = Limits()) -> AsyncIterator[None]:
    """Serve `app` on the Unix socket `path`; the process's umask says who may connect. Raises ListenError."""
    _make_way(path)
    async with connections_of(app, limits) as connections, listening(connections, _bound(path)):
        log.info("api_ready socket=%s", path)
        try:
            yield
        finally:
            _remove(path)


@asynccontextmanager
async def connections_of(app: web.Application, limits: Limits) -> AsyncIterator[Connections]:
    """What makes the protocols of connections to `app`, until its answers under way are ended."""
    runner = web.AppRunner(
        app,
        # Cancelling the handler of a client that went away is what ends an answer on Ctrl-C.
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=SHUTDOWN_TIMEOUT_S,
        keepalive_timeout=limits.head_timeout_s,
        auto_decompress=False,
        logger=HttpLog(log, {}),
    )
    await runner.setup()
    try:
        if runner.server is None:
            raise RuntimeError("the runner is not set up")
        yield Connections(
            runner.server, max_connections=limits.max_connections, unread_timeout_s=limits.unread_timeout_s
        )
    finally:
        await runner.cleanup()


@asynccontextmanager
async def listening(
    connections: Connections, sock: socket.socket, context: ssl.SSLContext | None = None
) -> AsyncIterator[None]:
    """Take connections on `sock`, which is bound and from now on ours."""
    loop = asyncio.get_running_loop()
    if sock.family == socket.AF_UNIX:
        server = await loop.create_unix_server(connections, sock=sock, backlog=BACKLOG)
    else:
        server = await loop.create_server(connections, sock=sock, backlog=BACKLOG, ssl=context)
    try:
        yield
    finally:
        server.close()


def _bound(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.bind(str(path))
    except OSError as error:
        sock.close()
        raise ListenError(
            f"The control socket {path} cannot be made: {error.strerror}.",
            hint="Set `socket` in the configuration to a path that tpid may write.",
        ) from error
    return sock


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _make_way(path: Path) -> None:
    """Remove the socket of a daemon that is gone. Raises ListenError where one is alive."""
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise ListenError(
            f"The path of the control socket is longer than {_MAX_PATH_BYTES} bytes: {path}.",
            hint="Set a shorter `socket` in the configuration.",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ListenError(
            f"The directory {path.parent} cannot be made: {error.strerror}.",
            hint="Set `socket` in the configuration to a path that tpid may write.",
        ) from error
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            _remove(path)
            return
    raise ListenError(
        f"Another tpid already answers on {path}.", hint="Stop it first, or set another `socket` in the configuration."
    )

"""The server on the Unix socket."""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from tpid.api.chat import ChatEndpoint
from tpid.api.connections import MAX_CONNECTIONS, UNREAD_TIMEOUT_S, Connections
from tpid.api.devices import DeviceEndpoints
from tpid.api.faults import HttpLog, faults
from tpid.api.models import ModelEndpoints
from tpid.api.request_body import BODIES, BodyReader
from tpid.api.status import StatusEndpoint
from tpid.errors import ListenError

log = logging.getLogger(__name__)

HEAD_TIMEOUT_S = 15.0  # for a complete head, from connecting or from the answer before
SHUTDOWN_TIMEOUT_S = 2.0  # what an answer under way is given to end, when the daemon stops
BACKLOG = 1024  # connections that may wait to be taken, or to be told that there are too many
_MAX_PATH_BYTES = 107  # of sockaddr_un on Linux, without the closing zero


def make_app(
    chat: ChatEndpoint,
    models: ModelEndpoints,
    status: StatusEndpoint,
    devices: DeviceEndpoints,
    bodies: BodyReader,
) -> web.Application:
    app = web.Application(middlewares=[faults])
    app[BODIES] = bodies
    app.add_routes(
        [
            web.post("/v1/chat/completions", chat.post),
            web.get("/v1/models", models.list_openai),
            web.get("/tpid/status", status.get),
            web.get("/tpid/models", models.list_packs),
            web.post("/tpid/import", models.import_),
            web.post("/tpid/pull", models.pull),
            web.post("/tpid/load", models.load),
            web.post("/tpid/plan", models.plan),
            web.post("/tpid/verify", models.verify),
            web.get("/tpid/devices", devices.list_),
            web.post("/tpid/devices/remove", devices.remove),
            web.post("/tpid/invite", devices.invite),
            web.post("/tpid/join", devices.join),
            web.post("/tpid/leave", devices.leave),
        ]
    )
    return app


@asynccontextmanager
async def serving(
    app: web.Application,
    path: Path,
    *,
    head_timeout_s: float = HEAD_TIMEOUT_S,
    unread_timeout_s: float = UNREAD_TIMEOUT_S,
    max_connections: int = MAX_CONNECTIONS,
) -> AsyncIterator[None]:
    """Serve `app` on the Unix socket `path`; the process's umask says who may connect. Raises ListenError."""
    _make_way(path)
    runner = web.AppRunner(
        app,
        # Cancelling the handler of a client that went away is what ends an answer on Ctrl-C.
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=SHUTDOWN_TIMEOUT_S,
        keepalive_timeout=head_timeout_s,
        auto_decompress=False,
        logger=HttpLog(log, {}),
    )
    await runner.setup()
    try:
        if runner.server is None:
            raise RuntimeError("the runner is not set up")
        connections = Connections(runner.server, max_connections=max_connections, unread_timeout_s=unread_timeout_s)
        server = await _listen(connections, path)
        log.info("api_ready socket=%s", path)
        try:
            yield
        finally:
            server.close()
            _remove(path)
    finally:
        await runner.cleanup()


async def _listen(connections: Connections, path: Path) -> asyncio.Server:
    try:
        return await asyncio.get_running_loop().create_unix_server(connections, str(path), backlog=BACKLOG)
    except OSError as error:
        raise ListenError(
            f"The control socket {path} cannot be made: {error.strerror}.",
            hint="Set `socket` in the configuration to a path that tpid may write.",
        ) from error


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

"""The API on a TCP port, for clients that know no Unix sockets."""

import errno
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from aiohttp import web

from tpid.api.listen_address import ListenAddress, TcpState
from tpid.api.server import BACKLOG, Limits, connections_of, listening
from tpid.errors import ConfigError

log = logging.getLogger(__name__)


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Raises ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigError(
            f"The API cannot use the certificate {certificate} with the key {key}: {error}.",
            hint="Set api.tls_certificate and api.tls_key to PEM files that belong together.",
        ) from error
    return context


@asynccontextmanager
async def serving_tcp(
    app: web.Application, address: ListenAddress, limits: Limits, context: ssl.SSLContext | None = None
) -> AsyncIterator[TcpState]:
    """Serve `app` on `address`. A port that cannot be had is no reason to end: the state says why."""
    async with AsyncExitStack() as stack:
        try:
            sock = _bound(address)
        except OSError as error:
            failure = _failure(address, error)
            log.warning("api_tcp_off address=%s reason=%r", address, failure)
            yield TcpState(failure=failure)
            return
        connections = await stack.enter_async_context(connections_of(app, limits))
        await stack.enter_async_context(listening(connections, sock, context))
        bound = ListenAddress(address.host, sock.getsockname()[1])
        log.info("api_tcp_ready address=%s tls=%s", bound, context is not None)
        yield TcpState(address=str(bound), secure=context is not None)


def _bound(address: ListenAddress) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address.host, address.port))
        sock.listen(BACKLOG)  # here, because it may fail, too
    except OSError:
        sock.close()
        raise
    return sock


def _failure(address: ListenAddress, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {address.port} of {address.host} is in use by another program, maybe another tpid."
    return f"This device cannot listen on {address}: {error.strerror}."

"""Who may use the API on TCP: keys beyond this machine, and which web pages a browser may speak for.

A browser runs programs of strangers on this machine. Two checks keep these out of a loopback address, which asks for no
key: the Host header must name this machine (against names of strangers that resolve to it, "DNS rebinding"), and the
Origin header, which tells whose page it is, must be listed.
"""

import ipaddress
from collections.abc import Collection

from aiohttp import hdrs, web

from tpid.api.faults import Handler
from tpid.api.fields import shown
from tpid.api.keys import ApiKeys
from tpid.errors import ApiKeyError, OriginError

HEALTH = "/health"  # for whoever watches whether the daemon is up: it says no more than that
_PREFLIGHT_MAX_AGE_S = 600
_BEARER = "bearer "


class Access:
    def __init__(self, keys: ApiKeys | None, origins: Collection[str] = (), hosts: Collection[str] = ()) -> None:
        """`keys`: None where none is asked for. `origins`, `hosts`: that are let in beside this machine's own."""
        self._keys = keys
        self._origins = frozenset(origins)
        self._hosts = frozenset(host.lower() for host in hosts)

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Raises OriginError or ApiKeyError."""
        if self._keys is None:
            self._check_host(request.headers.get(hdrs.HOST))
        self._check_origin(request)
        if request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers:
            return self._preflight(request)
        if self._keys is not None and request.path != HEALTH:
            _check_key(self._keys, request.headers.get(hdrs.AUTHORIZATION))
        return await handler(request)

    async def allow_origin(self, request: web.Request, response: web.StreamResponse) -> None:
        """Let a listed page read the answer; a signal of aiohttp, for answers of every kind."""
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and self._is_listed(origin):
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            response.headers.add(hdrs.VARY, hdrs.ORIGIN)

    def _preflight(self, request: web.Request) -> web.Response:
        """What a browser asks before it sends a page's request."""
        return web.Response(
            status=204,
            headers={
                hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, POST, OPTIONS",
                hdrs.ACCESS_CONTROL_ALLOW_HEADERS: request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "*"),
                hdrs.ACCESS_CONTROL_MAX_AGE: str(_PREFLIGHT_MAX_AGE_S),
            },
        )

    def _check_host(self, header: str | None) -> None:
        if header is None:  # no browser
            return
        host = _host_of(header)
        if host not in self._hosts and not _is_this_machine(host):
            raise OriginError(
                f"The API is not called {shown(host)} here.",
                hint="Ask for 127.0.0.1 or localhost, or add the name to api.hosts in the configuration.",
            )

    def _check_origin(self, request: web.Request) -> None:
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None or self._is_listed(origin) or origin == f"{request.scheme}://{request.headers.get('Host')}":
            return
        raise OriginError(
            f"Web pages of {shown(origin)} may not use the API.",
            hint="If they are yours, add this origin to api.origins in the configuration.",
        )

    def _is_listed(self, origin: str) -> bool:
        return origin in self._origins or "*" in self._origins


def _check_key(keys: ApiKeys, header: str | None) -> None:
    hint = "Make one with: tpictl key create NAME. Send it as the API key, in the header Authorization: Bearer KEY."
    if header is None or not header.lower().startswith(_BEARER):
        raise ApiKeyError("The request has no API key.", hint=hint)
    if not keys.holds(header[len(_BEARER) :].strip()):
        raise ApiKeyError("The API key is not known here.", hint=hint)


def _host_of(header: str) -> str:
    """Without the port and the brackets of IPv6."""
    host = header.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host


def _is_this_machine(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

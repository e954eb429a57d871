"""Errors over HTTP: one JSON object, with the status that fits, in the shape that the route's clients know."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from tpid.errors import (
    AccessError,
    ApiKeyError,
    BusyError,
    ClusterError,
    ContextOverflowError,
    DiskFullError,
    ModelError,
    ModelNotFoundError,
    PackError,
    RequestError,
    TpidError,
)

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

INTERNAL_FAULT = {"code": "internal", "message": "The daemon has met a fault of its own.", "hint": "See its log."}
_INTERNAL_TEXT = f"{INTERNAL_FAULT['message']} {INTERNAL_FAULT['hint']}"

# The first that fits; leaves before their bases.
_STATUS: tuple[tuple[type[TpidError], HTTPStatus], ...] = (
    (ApiKeyError, HTTPStatus.UNAUTHORIZED),
    (AccessError, HTTPStatus.FORBIDDEN),
    (ModelNotFoundError, HTTPStatus.NOT_FOUND),
    (BusyError, HTTPStatus.TOO_MANY_REQUESTS),
    (ContextOverflowError, HTTPStatus.BAD_REQUEST),
    (RequestError, HTTPStatus.BAD_REQUEST),
    (ModelError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (PackError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (DiskFullError, HTTPStatus.INSUFFICIENT_STORAGE),
    (ClusterError, HTTPStatus.SERVICE_UNAVAILABLE),
)


# Of OpenAI, by status; anything else is the daemon's fault.
_OPENAI_TYPES: Mapping[HTTPStatus, str] = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
}
_OPENAI_CODES: Mapping[str, str] = {ContextOverflowError.code: "context_length_exceeded"}  # which clients look for


@dataclass(frozen=True, slots=True)
class FaultShape:
    """What stands under `error` for the clients of one API."""

    of_error: Callable[[TpidError], Any]
    of_http: Callable[[int, str], Any]  # from aiohttp: a status and its sentence
    internal: Any


def shape_of(path: str) -> FaultShape:
    """Of the errors on a route."""
    return next((shape for prefix, shape in _SHAPES if path.startswith(prefix)), _OURS)


def describe_openai(error: TpidError) -> dict[str, Any]:
    """As OpenAI's clients expect it: they show the message alone, so the hint is in it."""
    field = "model" if isinstance(error, ModelNotFoundError) else getattr(error, "field", None)
    return _openai(status_of(error), str(error), _OPENAI_CODES.get(error.code, error.code), field)


def internal_openai_fault() -> dict[str, Any]:
    return _openai(HTTPStatus.INTERNAL_SERVER_ERROR, _INTERNAL_TEXT, INTERNAL_FAULT["code"], None)


def _openai(status: int, message: str, code: str, field: str | None) -> dict[str, Any]:
    of_client = "invalid_request_error" if status < 500 else "server_error"
    kind = _OPENAI_TYPES.get(HTTPStatus(status), of_client)
    return {"message": message, "type": kind, "param": field, "code": code}


def describe(error: TpidError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "hint": error.hint, "type": "tpid_error"}


def status_of(error: TpidError) -> HTTPStatus:
    return next((status for kind, status in _STATUS if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)


_OURS = FaultShape(describe, lambda status, message: {"code": "http", "message": message, "hint": None}, INTERNAL_FAULT)
_OPENAI = FaultShape(
    describe_openai, lambda status, message: _openai(status, message, "http", None), internal_openai_fault()
)
_OLLAMA = FaultShape(str, lambda status, message: message, _INTERNAL_TEXT)  # a sentence, and nothing else
_SHAPES = (("/v1/", _OPENAI), ("/api/", _OLLAMA))


@web.middleware
async def faults(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers with the error where a handler raised one before it began its answer."""
    shape = shape_of(request.path)
    try:
        return await handler(request)
    except TpidError as error:
        log.info("request_refused route=%s code=%s", _route(request), error.code)
        headers = {hdrs.RETRY_AFTER: str(error.retry_after_s)} if isinstance(error, BusyError) else None
        return web.json_response({"error": shape.of_error(error)}, status=status_of(error), headers=headers)
    except web.HTTPException as error:
        fault = shape.of_http(error.status, f"{request.method} {request.path}: {error.reason}.")
        return web.json_response({"error": fault}, status=error.status)
    except ConnectionError:
        log.debug("client_left route=%s", _route(request))
        raise asyncio.CancelledError from None  # as aiohttp ends a request whose connection is lost
    except Exception:
        log.exception("request_failed route=%s", _route(request))
        return web.json_response({"error": shape.internal}, status=HTTPStatus.INTERNAL_SERVER_ERROR)


class HttpLog(logging.LoggerAdapter[logging.Logger]):
    """What aiohttp logs: one line for bytes that are no HTTP, a traceback for a fault of ours."""

    def exception(self, msg: object, *args: object, exc_info: Any = True, **kwargs: Any) -> None:
        if isinstance(exc_info, HttpProcessingError):
            self.info("request_malformed reason=%r", exc_info.message[:100])
        else:
            super().exception(msg, *args, exc_info=exc_info, **kwargs)


def _route(request: web.Request) -> str:
    """The path as it is routed; not what the client wrote, which may hold anything."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "unknown"

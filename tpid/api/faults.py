"""Errors over HTTP: one JSON object, with the status that fits."""

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from tpid.api.bodies import first_fault
from tpid.errors import (
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

Body = TypeVar("Body", bound=BaseModel)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

INTERNAL_FAULT = {"code": "internal", "message": "The daemon has met a fault of its own.", "hint": "See its log."}

# The first that fits; leaves before their bases.
_STATUS: tuple[tuple[type[TpidError], HTTPStatus], ...] = (
    (ModelNotFoundError, HTTPStatus.NOT_FOUND),
    (BusyError, HTTPStatus.TOO_MANY_REQUESTS),
    (ContextOverflowError, HTTPStatus.BAD_REQUEST),
    (RequestError, HTTPStatus.BAD_REQUEST),
    (ModelError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (PackError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (DiskFullError, HTTPStatus.INSUFFICIENT_STORAGE),
    (ClusterError, HTTPStatus.SERVICE_UNAVAILABLE),
)


def describe(error: TpidError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "hint": error.hint, "type": "tpid_error"}


def status_of(error: TpidError) -> HTTPStatus:
    return next((status for kind, status in _STATUS if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)


async def parse(request: web.Request, kind: type[Body]) -> Body:
    """The request's body. Raises RequestError."""
    try:
        return kind.model_validate_json(await request.read())
    except ValidationError as error:
        raise RequestError(f"The request is not sound: {first_fault(list(error.errors()))}.") from error


@web.middleware
async def faults(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers with the error where a handler raised one before it began its answer."""
    try:
        return await handler(request)
    except TpidError as error:
        log.info("request_refused path=%s code=%s", request.path, error.code)
        return web.json_response({"error": describe(error)}, status=status_of(error))
    except web.HTTPException as error:
        fault = {"code": "http", "message": f"{request.method} {request.path}: {error.reason}.", "hint": None}
        return web.json_response({"error": fault}, status=error.status)
    except Exception:
        log.exception("request_failed path=%s", request.path)
        return web.json_response({"error": INTERNAL_FAULT}, status=HTTPStatus.INTERNAL_SERVER_ERROR)

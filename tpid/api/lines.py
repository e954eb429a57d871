"""Answers with one JSON object a line, for work that takes its time."""

import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from aiohttp import web

from tpid.api.faults import shape_of
from tpid.errors import TpidError

log = logging.getLogger(__name__)


async def stream_lines(request: web.Request, lines: AsyncGenerator[dict[str, Any], None]) -> web.StreamResponse:
    """Lines of JSON. An error before the first is an HTTP status, a later one is the last line."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    async with aclosing(lines):
        try:
            async for line in lines:
                await _write_line(request, response, line)
        except ConnectionError:  # the client is gone: there is nobody to tell
            raise
        except Exception as error:
            if not response.prepared:
                raise
            if not isinstance(error, TpidError):
                log.exception("work_failed path=%s", request.path)
            shape = shape_of(request.path)
            fault = shape.of_error(error) if isinstance(error, TpidError) else shape.internal
            await _write_line(request, response, {"error": fault})
    return response


async def _write_line(request: web.Request, response: web.StreamResponse, line: dict[str, Any]) -> None:
    if not response.prepared:
        await response.prepare(request)
    await response.write(json.dumps(line).encode() + b"\n")

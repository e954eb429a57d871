"""Server-sent events: an answer as it comes, and where it fails an error as the last event."""

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from aiohttp import web

from tpid.api.faults import describe_openai, internal_openai_fault
from tpid.errors import TpidError

log = logging.getLogger(__name__)

Item = TypeVar("Item")


class EventStream:
    def __init__(self, response: web.StreamResponse) -> None:
        self.response = response

    async def send(self, data: dict[str, Any], event: str | None = None) -> None:
        head = b"" if event is None else b"event: " + event.encode() + b"\n"
        await self.response.write(head + b"data: " + json.dumps(data).encode() + b"\n\n")

    async def done(self) -> None:
        await self.response.write(b"data: [DONE]\n\n")


@asynccontextmanager
async def event_stream(request: web.Request, model: str) -> AsyncIterator[EventStream]:
    """Begins the answer; an error inside becomes its last event."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    stream = EventStream(response)
    try:
        yield stream
    except TpidError as error:
        await stream.send({"error": describe_openai(error)})
    except ConnectionError:  # the client is gone: there is nobody to tell
        raise
    except Exception:
        log.exception("answer_failed model=%r", model)
        await stream.send({"error": internal_openai_fault()})


async def begun(items: AsyncGenerator[Item, None]) -> AsyncGenerator[Item, None]:
    """`items`, of which the first has come: an error before it is raised here, and can be an HTTP status."""
    first = await anext(items)

    async def all_of_them() -> AsyncGenerator[Item, None]:
        yield first
        async for item in items:
            yield item

    return all_of_them()

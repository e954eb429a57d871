"""The body of a request: read within limits of size, structure and time, and checked.

Nothing that a client sends keeps the event loop for long: a parser holds the interpreter until it is done, so what it
gets is bounded first. What a body takes in memory is at most eight times its size and 16 MB.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from aiohttp import web
from pydantic import ValidationError

from tpid.api.bodies import JsonBody, PromptBody, first_fault
from tpid.api.json_bounds import JsonBounds
from tpid.errors import BusyError, ContextOverflowError, RequestError

BODY_TIMEOUT_S = 10.0  # from head to last byte; a client is on this device
MAX_CONTROL_BYTES = 1 << 16  # names and paths
# Of a chat, in JSON: English has 4 characters a token, text in escapes up to 12, runs of blanks some dozens.
CHAT_BYTES_PER_TOKEN = 64
MIN_CHAT_BYTES, MAX_CHAT_BYTES = 1_000_000, 16_000_000
MAX_BODIES = 4  # of the largest size, that are read at the same time
_STEP_BYTES = 1 << 16  # looked at in one step of the loop

Body = TypeVar("Body", bound=JsonBody)


class BodyReader:
    """Reads the bodies of all requests of a daemon."""

    def __init__(self, context_tokens: int, *, timeout_s: float = BODY_TIMEOUT_S) -> None:
        """`context_tokens`: the longest context, which says how much text can be of use."""
        self._context_tokens = context_tokens
        self._timeout_s = timeout_s
        self.max_chat_bytes = min(max(context_tokens * CHAT_BYTES_PER_TOKEN, MIN_CHAT_BYTES), MAX_CHAT_BYTES)
        self._held_bytes = 0  # of all bodies that are being read

    async def parse(self, request: web.Request, kind: type[Body]) -> Body:
        """The body as `kind`. Raises RequestError; of its leaves BusyError and ContextOverflowError."""
        limit_bytes = self.max_chat_bytes if issubclass(kind, PromptBody) else MAX_CONTROL_BYTES
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise RequestError("The request is compressed.", hint="Send it as it is, without Content-Encoding.")
        if (request.content_length or 0) > limit_bytes:
            raise self._too_large(limit_bytes)
        with self._buffer() as data:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._read(request, data, limit_bytes)
            except TimeoutError:
                raise RequestError(
                    f"The request was not complete within {self._timeout_s:g} s.", hint="Send its whole body at once."
                ) from None
            except web.RequestPayloadError as error:
                raise RequestError(f"The body of the request is broken: {str(error)[:100]}.") from error
            return validated(kind, data)

    async def _read(self, request: web.Request, data: bytearray, limit_bytes: int) -> None:
        bounds = JsonBounds()
        async for chunk in request.content.iter_any():
            if len(data) + len(chunk) > limit_bytes:
                raise self._too_large(limit_bytes)
            self._held_bytes += len(chunk)
            data += chunk
            if self._held_bytes > MAX_BODIES * self.max_chat_bytes:
                raise BusyError("Too many large requests are being read.", hint="Try again in a moment.")
            for start in range(0, len(chunk), _STEP_BYTES):
                if not bounds.push(chunk[start : start + _STEP_BYTES]):
                    raise RequestError(
                        "The request has too many items.", hint="Send fewer messages, or put more text into each."
                    )
                await asyncio.sleep(0)

    @contextmanager
    def _buffer(self) -> Iterator[bytearray]:
        """What is held of one body, counted until it is let go."""
        data = bytearray()
        try:
            yield data
        finally:
            self._held_bytes -= len(data)

    def _too_large(self, limit_bytes: int) -> RequestError:
        if limit_bytes == MAX_CONTROL_BYTES:
            return RequestError(f"The request has more than {limit_bytes} bytes.", hint="Send names and paths only.")
        return ContextOverflowError(
            f"The request has more than {limit_bytes} bytes; "
            f"the context holds {self._context_tokens} tokens, the answer included.",
            hint="Shorten the prompt, start a new chat, or raise context_tokens in the configuration.",
        )


BODIES = web.AppKey("bodies", BodyReader)


async def parse(request: web.Request, kind: type[Body]) -> Body:
    """The body of `request` as `kind`, read by its application's reader. Raises RequestError."""
    return await request.app[BODIES].parse(request, kind)


def validated(kind: type[Body], data: bytes | bytearray) -> Body:
    """`data`, within its bounds, as `kind`. Raises RequestError."""
    try:
        body = kind.model_validate_json(data)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        field, fault = first_fault(faults)
        raise RequestError(f"The request is not sound: {fault}.", field=field) from None
    return body.sized(len(data)) if isinstance(body, PromptBody) else body

"""POST /v1/chat/completions, as OpenAI's API has it: whole, or streamed as server-sent events."""

import json
import logging
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from aiohttp import web

from tpid.api.chat_body import ChatBody
from tpid.api.faults import describe_openai, internal_openai_fault
from tpid.api.request_body import parse
from tpid.engine.engine import Engine
from tpid.engine.generation import Finished, GenerationRequest, GenerationStats, Text
from tpid.errors import TpidError
from tpid.model.stop_strings import StopStrings

log = logging.getLogger(__name__)


class ChatEndpoint:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def post(self, request: web.Request) -> web.StreamResponse:
        """The client ends an answer by closing the connection: aiohttp then cancels this handler."""
        body = await parse(request, ChatBody)
        events = self._engine.chat(body.model, generation_request(body))
        async with aclosing(events):
            if body.stream:
                return await _stream(request, body, events)
            return await _whole(body, events)


def generation_request(body: ChatBody) -> GenerationRequest:
    """Raises RequestError where a sampling parameter or a stop string is out of range."""
    StopStrings(body.stop)  # here, before the request waits for its turn
    return GenerationRequest(
        prompt=body.prompt,
        sampling=body.sampling,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        stop=body.stop,
        ignore_eos=body.ignore_eos,
    )


async def _whole(body: ChatBody, events: AsyncGenerator[Text | Finished, None]) -> web.Response:
    parts: list[str] = []
    end: Finished | None = None
    async for event in events:
        if isinstance(event, Text):
            parts.append(event.text)
        else:
            end = event
    if end is None:
        raise RuntimeError("the engine ended without an end")
    message = {"role": "assistant", "content": "".join(parts)}
    choice = {"index": 0, "message": message, "finish_reason": end.reason}
    answer = {**_head(body, "chat.completion"), "choices": [choice], **_usage(end.stats)}
    return web.json_response(answer)


async def _stream(
    request: web.Request, body: ChatBody, events: AsyncGenerator[Text | Finished, None]
) -> web.StreamResponse:
    """Errors before the first text are an HTTP status; later ones are an event, the last one."""
    first = await anext(events)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    head = _head(body, "chat.completion.chunk")
    if body.usage_is_told:
        head["usage"] = None
    await _send(response, {**head, "choices": [_delta({"role": "assistant", "content": ""})]})
    try:
        await _send_event(response, body, head, first)
        async for event in events:
            await _send_event(response, body, head, event)
        await response.write(b"data: [DONE]\n\n")
    except TpidError as error:
        await _send(response, {"error": describe_openai(error)})
    except ConnectionError:  # the client is gone: there is nobody to tell
        raise
    except Exception:
        log.exception("answer_failed model=%r", body.model)
        await _send(response, {"error": internal_openai_fault()})
    return response


async def _send_event(
    response: web.StreamResponse, body: ChatBody, head: dict[str, Any], event: Text | Finished
) -> None:
    if isinstance(event, Text):
        await _send(response, {**head, "choices": [_delta({"content": event.text})]})
        return
    await _send(response, {**head, "choices": [_delta({}, event.reason)]})
    if body.usage_is_told:
        await _send(response, {**head, "choices": [], **_usage(event.stats)})


async def _send(response: web.StreamResponse, data: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(data).encode() + b"\n\n")


def _head(body: ChatBody, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": body.model,
    }


def _delta(delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason}


def _usage(stats: GenerationStats) -> dict[str, Any]:
    usage = {
        "prompt_tokens": stats.prompt_tokens,
        "completion_tokens": stats.completion_tokens,
        "total_tokens": stats.prompt_tokens + stats.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": stats.cached_tokens},
        "queue_s": stats.queue_s,
    }
    timings = {"ttft_s": stats.ttft_s, "tpot_s": stats.tpot_s, "tokens_s": stats.tokens_s}
    return {"usage": usage, "timings": timings}

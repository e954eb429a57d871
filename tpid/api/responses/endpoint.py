"""POST /v1/responses, as OpenAI's API has it: whole, or streamed as server-sent events."""

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from aiohttp import web

from tpid.api.asked import generation_request
from tpid.api.event_stream import EventStream, begun, event_stream
from tpid.api.request_body import parse
from tpid.api.responses.body import ResponsesBody
from tpid.api.responses.output import ApiEvent, Output
from tpid.api.usage import usage_of
from tpid.engine.engine import Engine
from tpid.engine.generation import Event, Finished, GenerationStats


class ResponsesEndpoint:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def post(self, request: web.Request) -> web.StreamResponse:
        """The client ends an answer by closing the connection: aiohttp then cancels this handler."""
        body = await parse(request, ResponsesBody)
        async with aclosing(self._engine.answer(body.model, generation_request(body))) as events:
            if not body.stream:
                return web.json_response(await _whole(body, events))
            coming = await begun(events)
            async with event_stream(request, body.model) as stream:
                await _stream(stream, body, coming)
            return stream.response


class _Response:
    """The object that begins, grows and ends."""

    def __init__(self, body: ResponsesBody) -> None:
        self._head = _head(body)
        self._output = Output()

    @property
    def in_progress(self) -> dict[str, Any]:
        return {**self._head, "status": "in_progress"}

    def push(self, event: Event) -> list[ApiEvent]:
        """The API's events of one of the engine's; the last has the response."""
        events = list(self._output.push(event))
        if isinstance(event, Finished):
            response = self.ended(event)
            events.append({"type": f"response.{response['status']}", "response": response})
        return events

    def ended(self, end: Finished) -> dict[str, Any]:
        cut_short = end.reason == "length"
        return {
            **self._head,
            "status": "incomplete" if cut_short else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut_short else None,
            "completed_at": int(time.time()),
            "output": self._output.items,
            **_usage(end.stats),
        }


async def _whole(body: ResponsesBody, events: AsyncIterator[Event]) -> dict[str, Any]:
    response = _Response(body)
    told: list[ApiEvent] = []
    async for event in events:
        told = response.push(event)
    if not told or "response" not in told[-1]:
        raise RuntimeError("the engine ended without an end")
    whole: dict[str, Any] = told[-1]["response"]
    return whole


async def _stream(stream: EventStream, body: ResponsesBody, events: AsyncIterator[Event]) -> None:
    response = _Response(body)
    number = 0

    async def send(event: ApiEvent) -> None:
        nonlocal number
        await stream.send({**event, "sequence_number": number}, event["type"])
        number += 1

    for name in ("created", "in_progress"):
        await send({"type": f"response.{name}", "response": response.in_progress})
    async for event in events:
        for told in response.push(event):
            await send(told)


def _head(body: ResponsesBody) -> dict[str, Any]:
    """What is known before the answer: the request is told again."""
    asked = body.model_dump(mode="json", by_alias=True, include={"tools", "text", "tool_choice"}, exclude_none=True)
    return {
        "id": f"resp_{secrets.token_hex(12)}",
        "object": "response",
        "created_at": int(time.time()),
        "model": body.model,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": body.reasoning.effort, "summary": None},
        "service_tier": "default",
        "store": False,
        "temperature": body.sampling.temperature,
        "text": asked["text"],
        "tool_choice": asked.get("tool_choice", "auto"),
        "tools": [{"parameters": None, "strict": None, **tool} for tool in asked.get("tools", [])],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": body.sampling.top_p,
        "truncation": "disabled",
        "usage": None,
    }


def _usage(stats: GenerationStats) -> dict[str, Any]:
    """By the names that this API has for the same figures."""
    told = usage_of([stats])
    usage = told["usage"]
    return {
        "usage": {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {**usage["prompt_tokens_details"], "cache_write_tokens": 0},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
            "queue_s": usage["queue_s"],
        },
        "timings": told["timings"],
    }

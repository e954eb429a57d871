"""POST /v1/chat/completions, as OpenAI's API has it: whole, or streamed as server-sent events."""

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from aiohttp import web

from tpid.api.answers import Answer, collect
from tpid.api.asked import generation_request
from tpid.api.chat_body import ChatBody
from tpid.api.event_stream import EventStream, begun, event_stream
from tpid.api.logprobs import logprobs_of
from tpid.api.progress import telling
from tpid.api.request_body import parse
from tpid.api.usage import usage_of
from tpid.engine.engine import Engine
from tpid.engine.generation import Event, Finished, GenerationStats, Text, TokenLogprob
from tpid.engine.work import Work
from tpid.model.tool_calls import ToolCall


class ChatEndpoint:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def post(self, request: web.Request) -> web.StreamResponse:
        """The client ends an answer by closing the connection: aiohttp then cancels this handler."""
        body = await parse(request, ChatBody)
        work = Work(body.model)
        async with aclosing(self._engine.answer(body.model, generation_request(body), work)) as events:
            if not body.stream:
                return web.json_response(_whole(body, await collect(events)))
            coming = events if body.progress_is_told else await begun(events)
            head = _head(body, "chat.completion.chunk")
            async with event_stream(request, body.model) as stream:
                if body.progress_is_told:
                    async with telling(stream, head, work, self._engine.journal):
                        await _stream(stream, head, body, coming)
                else:
                    await _stream(stream, head, body, coming)
                await stream.done()
            return stream.response


def _whole(body: ChatBody, answers: Sequence[Answer]) -> dict[str, Any]:
    choices = [
        {
            "index": index,
            "message": _message(answer),
            "logprobs": _logprobs(answer.logprobs) if body.logprobs else None,
            "finish_reason": answer.reason,
        }
        for index, answer in enumerate(answers)
    ]
    usage = usage_of([answer.stats for answer in answers])
    return {**_head(body, "chat.completion"), "choices": choices, **usage}


def _message(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.calls:
        message["content"] = answer.text or None
        message["tool_calls"] = [_call(call) for call in answer.calls]
    return message


async def _stream(stream: EventStream, head: dict[str, Any], body: ChatBody, events: AsyncIterator[Event]) -> None:
    if body.usage_is_told:
        head["usage"] = None
    ends: list[GenerationStats] = []
    begins = True
    n_calls = 0  # of the choice at hand
    async for event in events:
        index = len(ends)
        if begins:
            await stream.send({**head, "choices": [_delta(index, {"role": "assistant", "content": ""})]})
        begins = isinstance(event, Finished)
        if isinstance(event, Text):
            choice = _delta(index, {"content": event.text})
            if body.logprobs:
                choice["logprobs"] = _logprobs(event.logprobs)
            await stream.send({**head, "choices": [choice]})
        elif isinstance(event, ToolCall):
            call = {"index": n_calls, **_call(event)}
            await stream.send({**head, "choices": [_delta(index, {"tool_calls": [call]})]})
            n_calls += 1
        else:
            n_calls = 0
            await stream.send({**head, "choices": [_delta(index, {}, event.reason)]})
            ends.append(event.stats)
    if body.usage_is_told:
        await stream.send({**head, "choices": [], **usage_of(ends)})


def _head(body: ChatBody, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": body.model,
    }


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _delta(index: int, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {"content": logprobs_of(tokens), "refusal": None}

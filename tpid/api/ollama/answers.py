"""POST /api/chat and /api/generate: lines of JSON, or one object."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from tpid.api.asked import generation_request
from tpid.api.lines import stream_lines
from tpid.api.logprobs import logprobs_of
from tpid.api.ollama.bodies import ChatBody, GenerateBody
from tpid.api.request_body import parse
from tpid.engine.engine import Engine, no_progress
from tpid.engine.generation import Event, Finished, Text, TokenLogprob
from tpid.model.thoughts import Spoken, Thoughts
from tpid.model.tool_calls import ToolCall


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of an answer, or all of it."""

    text: str = ""
    thinking: str = ""
    calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.text or self.thinking or self.calls or self.logprobs)


AnyBody = ChatBody | GenerateBody
Shape = Callable[[Said], dict[str, Any]]  # what a route tells of a piece


class AnswerEndpoints:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/api/chat", self.chat), web.post("/api/generate", self.generate)]

    async def chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, await parse(request, ChatBody), _message)

    async def generate(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, await parse(request, GenerateBody), _response)

    async def _answer(self, request: web.Request, body: AnyBody, shape: Shape) -> web.StreamResponse:
        """The client ends an answer by closing the connection: aiohttp then cancels this handler."""
        if body.only_loads:
            if not body.unloads:
                await self._engine.load(body.model, no_progress)
            done = {"done": True, "done_reason": "unload" if body.unloads else "load"}
            return web.json_response(_line(body, shape(Said())) | done)
        asked = generation_request(body)
        async with (
            aclosing(self._engine.answer(body.model, asked)) as events,
            aclosing(_pieces(events, Thoughts() if body.thoughts_are_told_apart else None)) as pieces,
        ):
            if body.stream:
                return await stream_lines(request, _lines(body, pieces, shape))
            return web.json_response(await _whole(body, pieces, shape))


async def _whole(body: AnyBody, pieces: AsyncIterator[Said | Finished], shape: Shape) -> dict[str, Any]:
    said: list[Said] = []
    async for piece in pieces:
        if isinstance(piece, Finished):
            return _last_line(body, shape(_joined(said)), piece)
        said.append(piece)
    raise RuntimeError("the engine ended without an end")


async def _lines(
    body: AnyBody, pieces: AsyncIterator[Said | Finished], shape: Shape
) -> AsyncGenerator[dict[str, Any], None]:
    async for piece in pieces:
        if isinstance(piece, Finished):
            yield _last_line(body, shape(Said()), piece)
        else:
            yield _line(body, shape(piece))


async def _pieces(events: AsyncIterator[Event], thoughts: Thoughts | None) -> AsyncGenerator[Said | Finished, None]:
    """`thoughts`: tells them from the answer; None where they stay in it."""
    async for event in events:
        match event:
            case Text(text=text, logprobs=logprobs):
                spoken = Spoken(text=text) if thoughts is None else thoughts.push(text)
                said = Said(spoken.text, spoken.thinking, logprobs=logprobs)
            case ToolCall():
                said = Said(calls=(event,))
            case Finished():
                spoken = Spoken() if thoughts is None else thoughts.finish()
                said = Said(spoken.text, spoken.thinking)
        if said:
            yield said
        if isinstance(event, Finished):
            yield event


def _joined(said: Sequence[Said]) -> Said:
    return Said(
        text="".join(piece.text for piece in said),
        thinking="".join(piece.thinking for piece in said),
        calls=tuple(call for piece in said for call in piece.calls),
        logprobs=tuple(token for piece in said for token in piece.logprobs),
    )


def _line(body: AnyBody, piece: dict[str, Any]) -> dict[str, Any]:
    created_at = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return {"model": body.model, "created_at": created_at, **piece, "done": False}


def _last_line(body: AnyBody, piece: dict[str, Any], end: Finished) -> dict[str, Any]:
    """With what the answer has cost; times in nanoseconds."""
    stats = end.stats
    return _line(body, piece) | {
        "done": True,
        "done_reason": "length" if end.reason == "length" else "stop",
        "total_duration": _ns(stats.queue_s + stats.ttft_s + stats.decode_s),
        "load_duration": 0,
        "prompt_eval_count": stats.prompt_tokens,
        "prompt_eval_duration": _ns(stats.ttft_s),
        "eval_count": stats.completion_tokens,
        "eval_duration": _ns(stats.decode_s),
    }


def _ns(time_s: float) -> int:
    return round(time_s * 1e9)


def _message(said: Said) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": said.text}
    if said.thinking:
        message["thinking"] = said.thinking
    if said.calls:
        message["tool_calls"] = [_call(call) for call in said.calls]
    return {"message": message} | _logprobs(said)


def _response(said: Said) -> dict[str, Any]:
    thinking = {"thinking": said.thinking} if said.thinking else {}
    return {"response": said.text} | thinking | _logprobs(said)


def _logprobs(said: Said) -> dict[str, Any]:
    return {"logprobs": logprobs_of(said.logprobs)} if said.logprobs else {}


def _call(call: ToolCall) -> dict[str, Any]:
    """Ollama's have an object of arguments, where OpenAI's have its text."""
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        arguments = {"arguments": call.arguments}  # the model has written no object
    return {"id": call.id, "function": {"name": call.name, "arguments": arguments}}

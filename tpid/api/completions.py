"""POST /v1/completions: a text is continued, with no chat around it."""

import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from itertools import accumulate
from typing import Any

from aiohttp import web

from tpid.api.answers import Answer, collect
from tpid.api.completion_body import DEFAULT_MAX_TOKENS, CompletionBody, Continued
from tpid.api.event_stream import EventStream, begun, event_stream
from tpid.api.request_body import parse
from tpid.api.usage import usage_of
from tpid.engine.engine import Engine
from tpid.engine.generation import Event, Finished, GenerationRequest, GenerationStats, Text, TokenLogprob
from tpid.model.stop_strings import StopStrings


class CompletionEndpoint:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def post(self, request: web.Request) -> web.StreamResponse:
        """The client ends an answer by closing the connection: aiohttp then cancels this handler."""
        body = await parse(request, CompletionBody)
        requests = continuations(body)
        if not body.stream:
            return web.json_response(_whole(body, [await self._whole(body.model, one) for one in requests]))
        async with aclosing(self._events(body.model, requests)) as events:
            coming = await begun(events)
            async with event_stream(request, body.model) as stream:
                await _stream(stream, body, coming)
            return stream.response

    async def _whole(self, model: str, request: GenerationRequest) -> list[Answer]:
        async with aclosing(self._engine.answer(model, request)) as events:
            return await collect(events)

    async def _events(self, model: str, requests: Sequence[GenerationRequest]) -> AsyncGenerator[Event, None]:
        """Of all prompts, one after the other."""
        for request in requests:
            async with aclosing(self._engine.answer(model, request)) as events:
                async for event in events:
                    yield event


def continuations(body: CompletionBody) -> list[GenerationRequest]:
    """One for each prompt. Raises RequestError where a sampling parameter or a stop string is out of range."""
    StopStrings(body.stop)  # here, before the request waits for its turn
    sampling = body.sampling

    def of(prompt: Continued) -> GenerationRequest:
        return GenerationRequest(
            prompt=prompt,
            sampling=sampling,
            max_tokens=body.max_tokens or DEFAULT_MAX_TOKENS,
            stop=body.stop,
            n=body.n or 1,
            top_logprobs=body.logprobs,
            ignore_eos=body.ignore_eos,
            size_bytes=body.size_bytes,
        )

    return [of(prompt) for prompt in body.prompt]


def _whole(body: CompletionBody, answers: Sequence[Sequence[Answer]]) -> dict[str, Any]:
    choices = [
        {
            "index": index,
            "text": answer.text,
            "logprobs": _logprobs(answer.logprobs, 0) if body.logprobs is not None else None,
            "finish_reason": answer.reason,
        }
        for index, answer in enumerate(answer for of_prompt in answers for answer in of_prompt)
    ]
    usage = usage_of(*([answer.stats for answer in of_prompt] for of_prompt in answers))
    return {**_head(body), "choices": choices, **usage}


async def _stream(stream: EventStream, body: CompletionBody, events: AsyncGenerator[Event, None]) -> None:
    head = _head(body)
    if body.usage_is_told:
        head["usage"] = None
    ends: list[GenerationStats] = []
    offset = 0  # of text, in the choice at hand
    async for event in events:
        choice: dict[str, Any] = {"index": len(ends), "text": "", "logprobs": None, "finish_reason": None}
        if isinstance(event, Text):
            choice["text"] = event.text
            if body.logprobs is not None:
                choice["logprobs"] = _logprobs(event.logprobs, offset)
            offset += sum(len(token.chosen.text) for token in event.logprobs)
        elif isinstance(event, Finished):
            choice["finish_reason"] = event.reason
            ends.append(event.stats)
            offset = 0
        await stream.send({**head, "choices": [choice]})
    if body.usage_is_told:
        n = body.n or 1
        of_prompts = [ends[at : at + n] for at in range(0, len(ends), n)]
        await stream.send({**head, "choices": [], **usage_of(*of_prompts)})
    await stream.done()


def _head(body: CompletionBody) -> dict[str, Any]:
    return {
        "id": f"cmpl-{secrets.token_hex(12)}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": body.model,
    }


def _logprobs(tokens: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """As this older API tells them; `offset`: characters of the answer before the first."""
    texts = [token.chosen.text for token in tokens]
    offsets = list(accumulate(map(len, texts[:-1]), initial=offset)) if texts else []
    return {
        "tokens": texts,
        "token_logprobs": [token.chosen.logprob for token in tokens],
        "top_logprobs": [{other.text: other.logprob for other in token.top} for token in tokens],
        "text_offset": offsets,
    }

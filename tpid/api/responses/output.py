"""From what the engine tells to the items of a response, and to the events that tell of them one by one."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tpid.api.logprobs import logprobs_of
from tpid.engine.generation import Event, Finished, Text, TokenLogprob
from tpid.model.tool_calls import ToolCall

ApiEvent: TypeAlias = dict[str, Any]


@dataclass(slots=True)
class _Message:
    """The text that is being said."""

    id: str
    index: int  # of the item
    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    @property
    def part(self) -> dict[str, Any]:
        return {
            "type": "output_text",
            "text": "".join(self.pieces),
            "annotations": [],
            "logprobs": logprobs_of(self.logprobs),
        }

    def item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "type": "message", "role": "assistant", "status": status, "content": content}


class Output:
    """Of one response. Sans-I/O: each event of the engine becomes some of the API's."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []  # complete ones
        self._message: _Message | None = None

    def push(self, event: Event) -> Iterator[ApiEvent]:
        match event:
            case Text():
                yield from self._say(event)
            case ToolCall():
                yield from self._end_message("completed")
                yield from self._call(event)
            case Finished(reason=reason):
                yield from self._end_message("incomplete" if reason == "length" else "completed")

    def _say(self, text: Text) -> Iterator[ApiEvent]:
        if self._message is None:
            self._message = _Message(f"msg_{secrets.token_hex(12)}", len(self.items))
            yield _item_event("added", self._message.index, self._message.item("in_progress", []))
            yield _part_event("content_part.added", self._message, part=self._message.part)
        self._message.pieces.append(text.text)
        self._message.logprobs += text.logprobs
        yield _part_event("output_text.delta", self._message, delta=text.text, logprobs=logprobs_of(text.logprobs))

    def _end_message(self, status: str) -> Iterator[ApiEvent]:
        message, self._message = self._message, None
        if message is None:
            return
        part = message.part
        yield _part_event("output_text.done", message, text=part["text"], logprobs=part["logprobs"])
        yield _part_event("content_part.done", message, part=part)
        yield from self._done(message.item(status, [part]))

    def _call(self, call: ToolCall) -> Iterator[ApiEvent]:
        index = len(self.items)
        id = f"fc_{secrets.token_hex(12)}"
        item = {"id": id, "type": "function_call", "call_id": call.id, "name": call.name}
        yield _item_event("added", index, {**item, "arguments": "", "status": "in_progress"})
        where = {"item_id": id, "output_index": index}
        kind = "response.function_call_arguments"
        yield {"type": f"{kind}.delta", **where, "delta": call.arguments}
        yield {"type": f"{kind}.done", **where, "name": call.name, "arguments": call.arguments}
        yield from self._done({**item, "arguments": call.arguments, "status": "completed"})

    def _done(self, item: dict[str, Any]) -> Iterator[ApiEvent]:
        self.items.append(item)
        yield _item_event("done", len(self.items) - 1, item)


def _item_event(what: str, index: int, item: dict[str, Any]) -> ApiEvent:
    return {"type": f"response.output_item.{what}", "output_index": index, "item": item}


def _part_event(what: str, message: _Message, **more: Any) -> ApiEvent:
    """A message here has one part."""
    where = {"item_id": message.id, "output_index": message.index, "content_index": 0}
    return {"type": f"response.{what}", **where, **more}

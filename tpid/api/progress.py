"""How far an answer is, told in its stream to whoever asks for it (`stream_options.include_progress`)."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from tpid.api.event_stream import EventStream
from tpid.engine.journal import DeviceEvent, Journal
from tpid.engine.work import Loading, Queued, Reading, Stage, Work, Writing

_PAUSE_S: Final = 0.1  # between two reports: a person reads no faster


@asynccontextmanager
async def telling(stream: EventStream, head: Mapping[str, Any], work: Work, journal: Journal) -> AsyncIterator[None]:
    """While the body runs, chunks without choices say how far `work` is and what happens to devices."""
    seen = journal.n_events
    tellers = [
        asyncio.create_task(_tell_stages(stream, head, work), name="progress"),
        asyncio.create_task(_tell_events(stream, head, journal, seen), name="device-events"),
    ]
    try:
        yield
    finally:
        for teller in tellers:
            teller.cancel()
        await asyncio.wait(tellers)
        for teller in tellers:
            if not teller.cancelled():
                teller.exception()  # the client is gone, which whoever writes the answer sees as well


async def _tell_stages(stream: EventStream, head: Mapping[str, Any], work: Work) -> None:
    told: Stage | None = None
    while True:
        told = await work.stage_after(told)
        await stream.send({**head, "choices": [], "progress": described_stage(told)})
        await asyncio.sleep(_PAUSE_S)


async def _tell_events(stream: EventStream, head: Mapping[str, Any], journal: Journal, seen: int) -> None:
    while True:
        for event in await journal.wait_after(seen):
            await stream.send({**head, "choices": [], "event": described_event(event)})
            seen = event.number


def described_stage(stage: Stage) -> dict[str, Any]:
    match stage:
        case Queued(ahead):
            return {"stage": "queue", "ahead": ahead}
        case Loading(done_bytes, total_bytes):
            return {"stage": "load", "done_bytes": done_bytes, "total_bytes": total_bytes}
        case Reading(done_tokens, total_tokens):
            return {"stage": "prefill", "done_tokens": done_tokens, "total_tokens": total_tokens}
        case Writing(tokens):
            return {"stage": "decode", "tokens": tokens}


def described_event(event: DeviceEvent) -> dict[str, Any]:
    return {
        "number": event.number,
        "time_s": event.time_s,
        "kind": event.kind,
        "device": event.device,
        "in_plan": event.in_plan,
        "reason": event.reason,
    }

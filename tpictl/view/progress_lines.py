"""How far an answer is, and what happens to devices meanwhile, each in a line."""

import re
from typing import Final

from tpictl.client.answers import DeviceEvent, Stage

_ENDINGS: Final = {1: "st", 2: "nd", 3: "rd"}


def stage_line(stage: Stage) -> str:
    """`2nd in the queue`, `reading the prompt 43 %`"""
    match stage.stage:
        case "queue" if stage.ahead:
            return f"{ordinal(stage.ahead + 1)} in the queue"
        case "load":
            return f"loading the model{_percent(stage.done_bytes, stage.total_bytes)}"
        case "prefill":
            return f"reading the prompt{_percent(stage.done_tokens, stage.total_tokens)}"
        case "decode":
            return "writing"
    return "waiting"


def event_line(event: DeviceEvent) -> str:
    """What has happened, and what becomes of the answer."""
    match event.kind:
        case "joined":
            return f"{event.device} joined; it takes part from the next answer on."
        case "lost" if event.in_plan:
            return f"{lost_line(event)} The others compute its share."
        case "lost":
            return f"{lost_line(event)} It had no part in this answer."
        case "failed":
            return f"{event.reason} The answer goes on without it."
        case "recovered":
            return f"The answer goes on with {event.device}."
    return event.reason


def lost_line(event: DeviceEvent) -> str:
    """`desktop has been silent for 2.5 s.`: without the address, which says nothing to most people."""
    said = re.sub(rf"^Device {re.escape(event.device)} at \S+ ", "", event.reason)
    told = f"{event.device} {said}" if said != event.reason else f"{event.device} is lost: {said}"
    return told if told.endswith((".", "!")) else f"{told}."


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st"""
    return f"{number}{'th' if 10 < number % 100 < 14 else _ENDINGS.get(number % 10, 'th')}"


def _percent(done: int, total: int) -> str:
    return f" {100 * min(done, total) // total} %" if total else ""

"""Who asks whether it is reached, and who answers: bounded, and only where it was asked."""

import asyncio
from dataclasses import dataclass, field
from typing import cast

import pytest

from tpid.cluster import reach
from tpid.cluster.address import Address
from tpid.cluster.reach import MAX_ADDRESSES, MAX_ASKING, Reach, look
from tpid.comm.connection import Connection
from tpid.comm.messages import Look, Message, Seen
from tpid.device import DeviceId

SEEN = Seen(announced=True, reached=[], not_reached={})


@dataclass
class Peer:
    id: DeviceId


@dataclass
class Line:
    """Of a connection what Reach takes."""

    peer: Peer
    peer_address: str = "127.0.0.1:1000"
    peer_port: int = 0
    sent: list[Message] = field(default_factory=list)

    def send(self, message: Message) -> None:
        self.sent.append(message)


def line(letter: str) -> tuple[Line, Connection]:
    made = Line(Peer(DeviceId(letter * 64)))
    return made, cast(Connection, made)


def test_what_was_not_asked_for_is_no_answer_and_silence_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "ASK_S", 0.05)

    async def test() -> None:
        asking = Reach(lambda _: [], lambda _: True)
        quiet, other = line("a"), line("b")
        asking.received(quiet[1], SEEN)  # out of nowhere
        asked = asyncio.create_task(asking.ask([quiet[1], other[1]]))
        await asyncio.sleep(0)
        asking.received(other[1], SEEN)
        assert await asked == {other[0].peer.id: SEEN}
        assert quiet[0].sent == other[0].sent == [Look()]
        asking.received(quiet[1], SEEN)  # too late

    asyncio.run(test())


def test_more_than_can_be_answered_are_passed_over() -> None:
    async def test() -> None:
        answering = Reach(lambda _: [], lambda _: False)
        lines = [line("a") for _ in range(MAX_ASKING + 5)]
        for _, connection in lines:
            answering.received(connection, Look())
        running = asyncio.create_task(answering.run())
        for _ in range(20 * MAX_ASKING):  # turns of the loop: more than the answers take
            await asyncio.sleep(0)
        running.cancel()
        assert sum(len(one.sent) for one, _ in lines) == MAX_ASKING

    asyncio.run(test())


def test_no_more_addresses_are_tried_than_a_device_has(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[str, int]] = []

    async def knock(endpoint: tuple[str, int], timeout_s: float) -> str:
        tried.append(endpoint)
        return ""

    monkeypatch.setattr(reach, "knock", knock)
    asyncio.run(look([Address("127.0.0.1", port) for port in (1, 1, *range(2, 20))]))
    assert tried == [("127.0.0.1", port) for port in range(1, MAX_ADDRESSES + 1)]

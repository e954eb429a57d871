"""Two streams that write, pause, wait and end at random: all arrives, and both ends are orderly."""

import asyncio
import random
import socket
import time

import pytest

from tests.integration.stream_ends import Form, Owner, open_doors, tcp_pair, within_a_minute
from tpid.cluster.identity.contexts import pairing_client
from tpid.comm.channel import Channel, PlainChannel
from tpid.comm.opening import Purpose
from tpid.comm.stream import Stream
from tpid.comm.tls_handshake import Door, answer_tls, dial_tls

PIECES_BYTES = (1, 30, 8192, 16384, 16385, 70_000, 300_000)


async def two_channels(form: Form, chance: random.Random) -> tuple[Channel, Channel]:
    """With little room in the system's buffers, so that streams are full at times."""
    ours, theirs = tcp_pair()
    for sock in (ours, theirs):
        sock.setblocking(False)
        for direction in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, direction, chance.choice([20_000, 60_000, 200_000]))
    if form is Form.PLAIN:
        return PlainChannel(ours), PlainChannel(theirs)
    door = Door(pairing_client(), lambda _: True)
    (_, answered), dialled = await asyncio.gather(
        answer_tls(ours, open_doors(), peer_address="x", timeout_s=5),
        dial_tls(theirs, Purpose.PAIRING, door, peer_address="x", timeout_s=5),
    )
    return answered, dialled


async def converse(form: Form, seed: int) -> None:
    chance = random.Random(seed)
    owners = [Owner(chance.choice([1000, 16384, 65536, 300_000])) for _ in range(2)]
    streams = [
        Stream(channel, owner, write_pause_bytes=chance.choice([1000, 10**6]))
        for channel, owner in zip(await two_channels(form, chance), owners, strict=True)
    ]
    said = [bytearray(), bytearray()]
    for stream in streams:
        stream.start()
    for _ in range(chance.randrange(5, 40)):
        who = chance.randrange(2)
        stream = streams[who]
        match chance.randrange(10):
            case 0:
                stream.pause_reading()
            case 1:
                stream.resume_reading()
            case 2:
                stream.receive(time.perf_counter() + chance.choice([0, 1e-4, 1e-3]))
            case 3:
                stream.flush(1e-3)
            case 4:
                await asyncio.sleep(0)
            case _:
                pieces = [chance.randbytes(chance.choice(PIECES_BYTES)) for _ in range(chance.choice([1, 1, 2, 3]))]
                stream.write(*pieces)
                said[who] += b"".join(pieces)
    for stream in streams:
        stream.resume_reading()
    streams[chance.randrange(2)].end_writing()
    assert [await owner.end for owner in owners] == [None, None]
    assert [owner.received for owner in owners] == said[::-1]
    assert any(owner.eof for owner in owners)


@pytest.mark.parametrize("form", list(Form), ids=lambda form: form.value)
@pytest.mark.parametrize("seed", range(0, 100, 50))
def test_whatever_two_streams_do_all_arrives(form: Form, seed: int) -> None:
    async def test() -> None:
        for number in range(seed, seed + 50):
            await converse(form, number)

    within_a_minute(asyncio.run)(test())

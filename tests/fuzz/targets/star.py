"""Hub and leaf of a star whose peers send any tensor frames, in any order, between the steps of a pass."""

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from tpid.comm.direct import DirectRank
from tpid.comm.frames import PREFIX, ExpectedFrame, decode_header
from tpid.comm.messages import Kind
from tpid.comm.star import StarHub, StarLeaf
from tpid.comm.tensors import TensorHeader
from tpid.comm.wire_dtype import WireDtype, wire_bytes
from tpid.errors import DeviceLostError, LocalProtocolError, NumericError, PassDroppedError, RemoteProtocolError

TERM = 5
_HIDDEN, _MAX_TOKENS = 32, 2
_MAX_EVENTS = 200
_EVENT = struct.Struct("<BBBBB")
_DTYPES = list(WireDtype)
Rank: TypeAlias = StarHub | StarLeaf | DirectRank
_LOOP = asyncio.new_event_loop()


class FakeLink:
    def __init__(self) -> None:
        self.expected: ExpectedFrame | None = None
        self.sent: deque[TensorHeader] = deque(maxlen=4)

    def send_frame(self, head: bytes, payload: memoryview | None, /) -> None:
        header = decode_header(Kind(PREFIX.unpack_from(head)[2]), head[PREFIX.size :])
        assert isinstance(header, TensorHeader)
        assert (payload is None) == (header.n_tokens == 0)
        self.sent.append(header)

    def expect(self, frame: ExpectedFrame | None, /) -> None:
        self.expected = frame

    def receive(self, deadline_s: float, /) -> bool:
        return False

    def flush(self, most_s: float, /) -> None:
        return None


def fuzz(data: bytes) -> None:
    """First byte: hub or leaf, and its wire dtype; then five bytes an event."""
    if not data:
        return
    first, events = data[0], data[1:]
    if first & 1:
        links = [FakeLink()]
        drive(lambda sizes: StarLeaf(TERM, links[0], **sizes), links, first >> 1, events)
    else:
        links = [FakeLink(), FakeLink()]
        drive(lambda sizes: StarHub(TERM, dict(enumerate(links, 1)), **sizes), links, first >> 1, events)


def drive(make: Callable[[dict[str, Any]], Rank], links: list[FakeLink], dtype_number: int, events: bytes) -> None:
    """The rank that `make` gives, through what its peers at the `links` send."""
    dtype = _DTYPES[dtype_number % len(_DTYPES)]
    rank = make({"hidden_size": _HIDDEN, "max_tokens": _MAX_TOKENS, "wire_dtype": dtype})
    _LOOP.run_until_complete(_drive(rank, links, dtype, events[: _MAX_EVENTS * _EVENT.size]))


async def _drive(star: Rank, links: list[FakeLink], dtype: WireDtype, events: bytes) -> None:
    task: asyncio.Task[None] | None = None
    pass_id = step = 0
    for what, who, a, b, c in _EVENT.iter_unpack(events[: len(events) // _EVENT.size * _EVENT.size]):
        link = links[who % len(links)]
        done = task is None or task.done()
        try:
            if what % 8 == 0 and done:
                pass_id, step = pass_id + 1, 0
                star.begin(pass_id, 1 + a % _MAX_TOKENS)
            elif what % 8 == 1 and done:
                task = asyncio.create_task(_reduce(star, step, None if a % 4 == 0 else float(b)))
                step += 1
            elif what % 8 == 2:
                star.fail(DeviceLostError("gone"))
            elif what % 8 == 3 and task is not None:
                task.cancel()
            else:
                _deliver(star, link, _header(pass_id, step, (what, a, b), dtype), bytes([c]))
        except (RemoteProtocolError, LocalProtocolError):
            pass
        await asyncio.sleep(0)
    star.fail(DeviceLostError("the end"))
    if task is not None:
        task.cancel()
        await asyncio.wait([task])


async def _reduce(star: Rank, step: int, value: float | None) -> None:
    n_tokens = star._shape[0]
    partial = None if value is None else np.full((n_tokens, _HIDDEN), value, np.float32)
    try:
        total = await star.reduce(step, partial)
    except (
        DeviceLostError,
        LocalProtocolError,
        RemoteProtocolError,
        NumericError,
        PassDroppedError,
        asyncio.CancelledError,
    ):
        return
    assert total.shape == (n_tokens, _HIDDEN)


def _header(pass_id: int, step: int, changes: tuple[int, int, int], dtype: WireDtype) -> TensorHeader:
    """The right one, mostly; each of its fields may be beside it."""
    what, a, b = changes
    beside = (0, 0, 0, 0, 1, -1, 2, 1 << 30)
    return TensorHeader(
        max(0, TERM + (beside[b % 8] if a & 1 else 0)),
        max(0, pass_id + (beside[b // 8 % 8] if a & 2 else 0)),
        max(0, step - 1 + (beside[what // 8 % 8] if a & 4 else 0)),
        (1, 2, 0, 3)[a >> 3 & 3],
        _DTYPES[a >> 5] if a >> 5 < len(_DTYPES) else dtype,
    )


def _deliver(star: Rank, link: FakeLink, header: TensorHeader, value: bytes) -> None:
    """As a connection does it: the expected frame straight to its place, others by asking for a buffer."""
    expected, link.expected = link.expected, None
    if expected is not None and decode_header(Kind.PARTIAL, expected.head[PREFIX.size :]) == header:
        expected.payload[:] = value * len(expected.payload)
        expected.arrived(expected.head)
        return
    link.expected = expected
    if header.n_tokens == 0:
        star.received(link, header, None)
        return
    size_bytes = wire_bytes(header.wire_dtype, header.n_tokens, _HIDDEN)
    target = star.payload_buffer(link, header, size_bytes)
    if target is not None:
        assert len(target) >= size_bytes
        target[:size_bytes] = value * size_bytes
        star.received(link, header, target[:size_bytes])

"""The star over simulated links: the test decides which frame arrives when."""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpid.comm.allreduce import Alone
from tpid.comm.frames import PREFIX, ExpectedFrame, decode_header, encode_tensor_head
from tpid.comm.messages import Kind
from tpid.comm.star import StarHub, StarLeaf
from tpid.comm.tensors import TensorHeader
from tpid.comm.wire_dtype import WireDtype, decode_tensor, encode_tensor, wire_bytes
from tpid.errors import DeviceLostError, LocalProtocolError, RemoteProtocolError

HIDDEN = 64
MAX_TOKENS = 4
TERM = 5


class Wire:
    """One direction of a link: frames wait here until the test delivers them."""

    def __init__(self) -> None:
        self.frames: deque[tuple[Kind, TensorHeader, bytes | None]] = deque()
        self.broken: DeviceLostError | None = None
        self.expected: ExpectedFrame | None = None  # by whoever sends here: it receives on the other wire of the link
        self.on_receive: Callable[[], bool] = lambda: False

    def send_frame(self, head: bytes, payload: memoryview | None, /) -> None:
        if self.broken is not None:
            raise self.broken
        _, _, kind, header_bytes, payload_bytes = PREFIX.unpack_from(head)
        assert len(head) == PREFIX.size + header_bytes
        assert payload_bytes == (0 if payload is None else len(payload))
        header = decode_header(Kind(kind), head[PREFIX.size :])
        assert isinstance(header, TensorHeader)
        self.frames.append((Kind(kind), header, None if payload is None else bytes(payload)))

    def expect(self, frame: ExpectedFrame | None, /) -> None:
        self.expected = frame

    def receive(self, deadline_s: float, /) -> bool:
        return self.on_receive()

    def flush(self, most_s: float, /) -> None:
        return None


class Net:
    """A hub and its leaves, each with a wire in both directions."""

    def __init__(self, n_ranks: int, dtype: WireDtype = WireDtype.FP32, term: int = TERM) -> None:
        self.down = {rank: Wire() for rank in range(1, n_ranks)}
        self.up = {rank: Wire() for rank in range(1, n_ranks)}
        self.hub = StarHub(term, self.down, hidden_size=HIDDEN, max_tokens=MAX_TOKENS, wire_dtype=dtype)
        self.leaves = {
            rank: StarLeaf(term, wire, hidden_size=HIDDEN, max_tokens=MAX_TOKENS, wire_dtype=dtype)
            for rank, wire in self.up.items()
        }

    def begin(self, pass_id: int, n_tokens: int) -> None:
        self.hub.begin(pass_id, n_tokens)
        for leaf in self.leaves.values():
            leaf.begin(pass_id, n_tokens)

    def star(self, rank: int) -> StarHub | StarLeaf:
        return self.leaves[rank] if rank else self.hub

    def to_hub(self, rank: int) -> None:
        _, header, payload = self.up[rank].frames.popleft()
        deliver(self.hub, self.down[rank], header, payload)

    def to_leaf(self, rank: int) -> None:
        _, header, payload = self.down[rank].frames.popleft()
        deliver(self.leaves[rank], self.up[rank], header, payload)

    def deliver_any(self, rng: random.Random) -> bool:
        ready = [(self.to_hub, rank) for rank, wire in self.up.items() if wire.frames]
        ready += [(self.to_leaf, rank) for rank, wire in self.down.items() if wire.frames]
        if ready:
            step, rank = rng.choice(ready)
            step(rank)
        return bool(ready)


def deliver(star: StarHub | StarLeaf, link: Wire, header: TensorHeader, payload: bytes | None) -> None:
    """As a connection does it."""
    if payload is None:
        star.received(link, header, None)
        return
    kind = Kind.PARTIAL if isinstance(star, StarHub) else Kind.SUM
    expected = link.expected
    if expected is not None and expected.head == encode_tensor_head(kind, header, len(payload)):
        link.expected = None
        expected.payload[:] = payload
        expected.arrived(expected.head)
        return
    target = star.payload_buffer(link, header, len(payload))
    if target is not None:
        target[: len(payload)] = payload
        star.received(link, header, target[: len(payload)])


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def rounded(x: np.ndarray, dtype: WireDtype) -> np.ndarray:
    data = bytearray(wire_bytes(dtype, *x.shape))
    encode_tensor(x, dtype, memoryview(data))
    out = np.empty_like(x)
    decode_tensor(data, dtype, out)
    return out


def judge(partials: list[np.ndarray | None], dtype: WireDtype, n_tokens: int) -> np.ndarray:
    """The sum as docs/protocol.md says it: rank order, partials and result as they are sent."""
    total = None
    for partial in partials:
        if partial is not None:
            sent = rounded(partial, dtype)
            total = sent if total is None else total + sent
    return np.zeros((n_tokens, HIDDEN), np.float32) if total is None else rounded(total, dtype)


def partial_of(seed: int, n_tokens: int) -> np.ndarray:
    # Of very different sizes, so that another order of summation gives other bits.
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n_tokens, HIDDEN)) * 10.0 ** rng.integers(-3, 4)).astype(np.float32)


def header(step: int = 0, *, term: int = TERM, pass_id: int = 1, n_tokens: int = 1) -> TensorHeader:
    return TensorHeader(term, pass_id, step, n_tokens, WireDtype.FP32)


ONE = np.ones((1, HIDDEN), np.float32)
ONE_BYTES = ONE.tobytes()


@settings(deadline=None, max_examples=60)
@given(
    st.integers(2, 5),
    st.integers(1, MAX_TOKENS),
    st.sampled_from(list(WireDtype)),
    st.integers(0, 2**32),
    st.sets(st.tuples(st.integers(0, 3), st.integers(0, 4))),
)
def test_any_order_of_arrival_gives_the_same_bits(
    n_ranks: int, n_tokens: int, dtype: WireDtype, seed: int, empty: set[tuple[int, int]]
) -> None:
    n_steps = 4
    partials = [
        [None if (step, rank) in empty else partial_of(step * 10 + rank, n_tokens) for rank in range(n_ranks)]
        for step in range(n_steps)
    ]

    async def rank_of(net: Net, rank: int) -> list[bytes]:
        sums = []
        for step in range(n_steps):
            sums.append((await net.star(rank).reduce(step, partials[step][rank])).tobytes())
        return sums

    async def test() -> None:
        rng = random.Random(seed)
        net = Net(n_ranks, dtype)
        net.begin(1, n_tokens)
        tasks = [asyncio.create_task(rank_of(net, rank)) for rank in range(n_ranks)]
        rng.shuffle(tasks)
        while not all(task.done() for task in tasks):
            await turns(rng.randint(0, 2))
            net.deliver_any(rng)
        expected = [judge(row, dtype, n_tokens).tobytes() for row in partials]
        for task in tasks:
            assert task.result() == expected

    run(test())


def test_the_judge_sees_the_order() -> None:
    partials: list[np.ndarray | None] = [partial_of(rank, 2) for rank in range(4)]
    assert judge(partials, WireDtype.FP32, 2).tobytes() != judge(partials[::-1], WireDtype.FP32, 2).tobytes()


def test_the_last_partial_sends_the_sum_without_a_turn_of_the_loop() -> None:
    async def test() -> None:
        net = Net(3)
        net.begin(1, 1)
        task = asyncio.create_task(net.hub.reduce(0, ONE))
        await turns()
        deliver(net.hub, net.down[2], header(), ONE_BYTES)
        assert not net.down[1].frames
        deliver(net.hub, net.down[1], header(), ONE_BYTES)
        expected = (Kind.SUM, header(), (3 * ONE).tobytes())
        assert [list(wire.frames) for wire in net.down.values()] == [[expected], [expected]]
        assert not task.done()
        await task

    run(test())


def test_a_leaf_may_be_one_step_ahead_of_the_hub() -> None:
    async def test() -> None:
        net = Net(3)
        net.begin(1, 1)
        deliver(net.hub, net.down[1], header(0), ONE_BYTES)
        deliver(net.hub, net.down[2], header(0), ONE_BYTES)
        first = await net.hub.reduce(0, ONE)
        # Both leaves have the sum and go on, before the hub's task has looked at it.
        deliver(net.hub, net.down[2], header(1), (5 * ONE).tobytes())
        deliver(net.hub, net.down[1], header(1), (4 * ONE).tobytes())
        assert (first == 3).all()
        second = await net.hub.reduce(1, ONE)
        assert (second == 10).all()
        assert (first == 3).all()  # still valid until the reduce after the next

    run(test())


def test_the_view_of_a_leaf_lives_until_the_reduce_after_the_next() -> None:
    async def test() -> None:
        net = Net(2)
        net.begin(1, 1)
        sums = []
        for step in range(2):
            task = asyncio.create_task(net.leaves[1].reduce(step, None))
            await turns()
            deliver(net.leaves[1], net.up[1], header(step), (ONE * step).tobytes())
            sums.append(await task)
        assert (sums[0] == 0).all()
        assert (sums[1] == 1).all()

    run(test())


@pytest.mark.parametrize("stale", [{"term": TERM - 1, "pass_id": 9}, {"pass_id": 6}])
def test_frames_of_the_past_are_skipped(stale: dict[str, int]) -> None:
    async def test() -> None:
        net = Net(2)
        net.begin(6, 1)
        net.begin(7, 1)
        old = header(3, n_tokens=3, **stale)
        assert net.hub.payload_buffer(net.down[1], old, 3 * 4 * HIDDEN) is None
        net.hub.received(net.down[1], header(**stale, n_tokens=0), None)
        assert net.leaves[1].payload_buffer(net.up[1], old, 3 * 4 * HIDDEN) is None
        net.leaves[1].received(net.up[1], header(**stale, n_tokens=0), None)
        deliver(net.hub, net.down[1], header(pass_id=7), ONE_BYTES)
        assert (await net.hub.reduce(0, ONE) == 2).all()

    run(test())


def test_before_its_first_pass_a_star_skips_what_is_of_older_terms() -> None:
    net = Net(2)
    assert net.hub.payload_buffer(net.down[1], header(term=TERM - 1), 4 * HIDDEN) is None
    with pytest.raises(RemoteProtocolError):
        net.hub.payload_buffer(net.down[1], header(pass_id=0), 4 * HIDDEN)


def test_a_payload_that_was_on_its_way_when_the_pass_ended_is_dropped() -> None:
    async def test() -> None:
        net = Net(2)
        net.begin(1, 1)
        target = net.hub.payload_buffer(net.down[1], header(), 4 * HIDDEN)
        assert target is not None
        net.hub.fail(DeviceLostError("gone"))
        net.hub.begin(2, 1)
        target[: 4 * HIDDEN] = (9 * ONE).tobytes()
        net.hub.received(net.down[1], header(), target[: 4 * HIDDEN])
        task = asyncio.create_task(net.hub.reduce(0, ONE))
        await turns()
        assert not task.done()
        deliver(net.hub, net.down[1], header(pass_id=2), ONE_BYTES)
        assert (await task == 2).all()

    run(test())


WRONG = [
    (header(term=TERM + 1), 4 * HIDDEN),
    (header(pass_id=2), 4 * HIDDEN),
    (header(1), 4 * HIDDEN),
    (header(n_tokens=2), 8 * HIDDEN),
    (header(), 4 * HIDDEN + 4),
    (header(), 4),
    (TensorHeader(TERM, 1, 0, 1, WireDtype.BF16), 2 * HIDDEN),
]


@pytest.mark.parametrize(("wrong", "size_bytes"), WRONG)
def test_frames_that_cannot_be_right(wrong: TensorHeader, size_bytes: int) -> None:
    async def test() -> None:
        net = Net(2)
        net.begin(1, 1)
        task = asyncio.create_task(net.leaves[1].reduce(0, ONE))
        await turns()
        with pytest.raises(RemoteProtocolError):
            net.hub.payload_buffer(net.down[1], wrong, size_bytes)
        with pytest.raises(RemoteProtocolError):
            net.leaves[1].payload_buffer(net.up[1], wrong, size_bytes)
        net.to_hub(1)  # what is right goes through all the same
        assert (await net.hub.reduce(0, ONE) == 2).all()
        net.to_leaf(1)
        assert (await task == 2).all()

    run(test())


def test_who_sends_twice_or_does_not_belong() -> None:
    async def test() -> None:
        net = Net(3)
        net.begin(1, 1)
        deliver(net.hub, net.down[1], header(), ONE_BYTES)
        with pytest.raises(RemoteProtocolError, match="second"):
            net.hub.payload_buffer(net.down[1], header(), 4 * HIDDEN)
        with pytest.raises(RemoteProtocolError, match="second"):
            net.hub.received(net.down[1], header(n_tokens=0), None)
        with pytest.raises(RemoteProtocolError, match="not in the plan"):
            net.hub.received(Wire(), header(n_tokens=0), None)
        with pytest.raises(RemoteProtocolError, match="not the hub"):
            net.leaves[1].received(Wire(), header(n_tokens=0), None)
        with pytest.raises(RemoteProtocolError, match="before this rank's partial"):
            net.leaves[1].received(net.up[1], header(n_tokens=0), None)

    run(test())


@pytest.mark.parametrize("rank", [0, 1])
def test_fail_wakes_and_the_next_pass_works(rank: int) -> None:
    async def test() -> None:
        net = Net(2)
        net.begin(1, 1)
        star = net.star(rank)
        error = DeviceLostError("gone")
        task = asyncio.create_task(star.reduce(0, ONE))
        await turns()
        star.fail(error)
        star.fail(DeviceLostError("later"))
        with pytest.raises(DeviceLostError) as caught:
            await task
        assert str(caught.value) == str(error)
        with pytest.raises(DeviceLostError):
            await star.reduce(1, ONE)
        net.up[1].frames.clear()
        net.begin(2, 1)
        tasks = [asyncio.create_task(net.star(rank).reduce(0, ONE)) for rank in (0, 1)]
        await turns()
        net.to_hub(1)
        net.to_leaf(1)
        assert [(await task).tolist() for task in tasks] == [(2 * ONE).tolist()] * 2

    run(test())


def test_frames_of_a_failed_pass_are_skipped() -> None:
    async def test() -> None:
        net = Net(2)
        net.begin(1, 1)
        net.hub.fail(DeviceLostError("gone"))
        deliver(net.hub, net.down[1], header(), ONE_BYTES)
        assert net.hub.payload_buffer(net.down[1], header(), 4 * HIDDEN) is None

    run(test())


def test_a_lost_leaf_fails_the_pass_and_not_the_leaf_that_spoke_last() -> None:
    async def test() -> None:
        net = Net(3)
        net.begin(1, 1)
        task = asyncio.create_task(net.hub.reduce(0, ONE))
        await turns()
        net.down[1].broken = DeviceLostError("rank 1 is gone")
        deliver(net.hub, net.down[1], header(), ONE_BYTES)
        deliver(net.hub, net.down[2], header(), ONE_BYTES)
        with pytest.raises(DeviceLostError, match="rank 1"):
            await task

    run(test())


def test_a_lost_leaf_when_the_hub_itself_is_last() -> None:
    async def test() -> None:
        net = Net(2)
        net.begin(1, 1)
        net.down[1].broken = DeviceLostError("rank 1 is gone")
        deliver(net.hub, net.down[1], header(), ONE_BYTES)
        with pytest.raises(DeviceLostError, match="rank 1"):
            await net.hub.reduce(0, ONE)

    run(test())


@pytest.mark.parametrize("rank", [0, 1])
def test_cancelling_loses_the_pass_and_nothing_else(rank: int) -> None:
    async def test() -> None:
        net = Net(2)
        net.begin(1, 1)
        star = net.star(rank)
        task = asyncio.create_task(star.reduce(0, ONE))
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(LocalProtocolError, match="cancelled"):
            await star.reduce(1, ONE)
        star.begin(2, 1)

    run(test())


@pytest.mark.parametrize("rank", [0, 1])
def test_a_peer_that_lives_and_does_not_compute(rank: int) -> None:
    async def test() -> None:
        wire = Wire()
        numbers = {"hidden_size": HIDDEN, "max_tokens": 1, "step_timeout_s": 0.01}
        star: StarHub | StarLeaf
        if rank:
            star = StarLeaf(TERM, wire, wire_dtype=WireDtype.FP32, **numbers)  # type: ignore[arg-type]
        else:
            star = StarHub(TERM, {1: wire}, wire_dtype=WireDtype.FP32, **numbers)  # type: ignore[arg-type]
        star.begin(1, 1)
        with pytest.raises(DeviceLostError, match=r"has waited 0.01 s for the (sum of the hub|partial of rank 1)\."):
            await star.reduce(0, ONE)

    run(test())


def test_our_own_mistakes() -> None:
    async def test() -> None:
        net = Net(2)
        with pytest.raises(LocalProtocolError):
            await net.hub.reduce(0, ONE)
        net.begin(3, 1)
        for pass_id, n_tokens in [(3, 1), (2, 1), (4, 0), (4, MAX_TOKENS + 1)]:
            with pytest.raises(LocalProtocolError):
                net.hub.begin(pass_id, n_tokens)
        for wrong in (np.ones((2, HIDDEN), np.float32), np.ones((1, HIDDEN)), np.ones(HIDDEN, np.float32)):
            with pytest.raises(LocalProtocolError):
                await net.hub.reduce(0, wrong)
        with pytest.raises(LocalProtocolError):
            await net.hub.reduce(1, ONE)
        with pytest.raises(LocalProtocolError, match="ranks"):
            StarHub(TERM, {2: Wire()}, hidden_size=HIDDEN, max_tokens=1, wire_dtype=WireDtype.FP32)

    run(test())


def test_alone() -> None:
    async def test() -> None:
        alone = Alone(HIDDEN)
        alone.begin(1, 2)
        assert await alone.reduce(0, ONE) is ONE
        nothing = await alone.reduce(1, None)
        assert nothing.shape == (2, HIDDEN)
        assert not nothing.any()
        alone.fail(DeviceLostError("aborted"))
        with pytest.raises(DeviceLostError):
            await alone.reduce(2, ONE)
        with pytest.raises(RemoteProtocolError):
            alone.payload_buffer(Wire(), header(), 4)
        with pytest.raises(RemoteProtocolError):
            alone.received(Wire(), header(), None)

    run(test())


@pytest.mark.parametrize("dtype", list(WireDtype))
@pytest.mark.parametrize("n_ranks", [2, 4])
def test_who_stays_at_the_socket_needs_no_turn_of_the_loop(n_ranks: int, dtype: WireDtype) -> None:
    partials = [partial_of(rank, 1) for rank in range(n_ranks)]

    async def test() -> None:
        net = Net(n_ranks, dtype)
        net.begin(1, 1)
        leaves = [asyncio.create_task(net.leaves[rank].reduce(0, partials[rank])) for rank in range(1, n_ranks)]
        await turns()
        for rank, wire in net.down.items():
            wire.on_receive = arrival(net.to_hub, rank)
        hub = net.hub.reduce(0, partials[0])
        with pytest.raises(StopIteration) as result:
            hub.send(None)  # it never waits
        total = result.value.value.tobytes()
        assert total == judge(list(partials), dtype, 1).tobytes()
        for rank in range(1, n_ranks):
            net.to_leaf(rank)
        assert [(await leaf).tobytes() for leaf in leaves] == [total] * (n_ranks - 1)

        net.up[1].on_receive = arrival(deliver_sum, net)
        second = net.leaves[1].reduce(1, partials[1])
        with pytest.raises(StopIteration) as result:
            second.send(None)
        assert result.value.value.tobytes() == rounded(ONE, dtype).tobytes()

    def arrival(deliver_to: Callable[[Any], None], what: Any) -> Callable[[], bool]:
        def on_receive() -> bool:
            deliver_to(what)
            return True

        return on_receive

    def deliver_sum(net: Net) -> None:
        data = bytearray(wire_bytes(dtype, 1, HIDDEN))
        encode_tensor(ONE, dtype, memoryview(data))
        deliver(net.leaves[1], net.up[1], TensorHeader(TERM, 1, 1, 1, dtype), bytes(data))

    run(test())


@pytest.mark.parametrize("rank", [0, 1])
def test_a_pass_that_fails_while_its_rank_stays_at_the_socket(rank: int) -> None:
    async def test() -> None:
        net = Net(2)
        net.begin(1, 1)
        star, link = (net.leaves[1], net.up[1]) if rank else (net.hub, net.down[1])
        error = DeviceLostError("an ABORT came")

        def fail() -> bool:
            star.fail(error)
            return True

        link.on_receive = fail
        with pytest.raises(DeviceLostError) as caught:
            star.reduce(0, ONE).send(None)
        assert str(caught.value) == str(error)
        assert link.expected is None

    run(test())


@pytest.mark.parametrize("rank", [0, 1])
def test_an_expected_payload_that_was_on_its_way_when_the_pass_ended_is_dropped(rank: int) -> None:
    async def test() -> None:
        net = Net(2)
        net.begin(1, 1)
        star, link = (net.leaves[1], net.up[1]) if rank else (net.hub, net.down[1])
        task = asyncio.create_task(star.reduce(0, ONE))
        await turns()
        late = link.expected
        assert late is not None
        star.fail(DeviceLostError("gone"))
        with pytest.raises(DeviceLostError):
            await task
        late.arrived(late.head)
        star.begin(2, 1)
        task = asyncio.create_task(star.reduce(0, ONE))
        await turns()
        late.payload[:] = (9 * ONE).tobytes()
        late.arrived(late.head)
        await turns()
        assert not task.done()
        deliver(star, link, header(pass_id=2), ONE_BYTES)
        assert (await task == (1 if rank else 2)).all()

    run(test())


def test_a_leaf_without_a_partial_is_not_expected_any_more() -> None:
    async def test() -> None:
        net = Net(2)
        net.begin(1, 1)
        task = asyncio.create_task(net.hub.reduce(0, ONE))
        await turns()
        assert net.down[1].expected is not None
        deliver(net.hub, net.down[1], header(n_tokens=0), None)
        assert net.down[1].expected is None
        assert (await task == ONE).all()

    run(test())

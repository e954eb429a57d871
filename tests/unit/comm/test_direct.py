"""The direct exchange over simulated links: the test decides which frame arrives when."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.comm.test_star import HIDDEN, MAX_TOKENS, TERM, Net, Wire, judge, run, turns
from tpid.comm.direct import DirectRank
from tpid.comm.frames import encode_tensor_head
from tpid.comm.messages import Kind
from tpid.comm.tensors import TensorHeader
from tpid.comm.wire_dtype import WireDtype, wire_bytes
from tpid.errors import (
    DeviceLostError,
    LocalProtocolError,
    NumericError,
    PassDroppedError,
    RemoteProtocolError,
)

ONE = np.ones((1, HIDDEN), np.float32)


class Mesh:
    """Ranks that are joined in pairs; `wires[a, b]` is what `a` sends to `b`, and the link by which it knows it."""

    def __init__(self, n_ranks: int, dtype: WireDtype = WireDtype.FP32) -> None:
        self.wires = {(a, b): Wire() for a in range(n_ranks) for b in range(n_ranks) if a != b}
        self.halves: dict[tuple[int, int], Callable[[], None]] = {}
        self.ranks = [
            DirectRank(
                TERM,
                rank,
                {other: self.wires[rank, other] for other in range(n_ranks) if other != rank},
                hidden_size=HIDDEN,
                max_tokens=MAX_TOKENS,
                wire_dtype=dtype,
            )
            for rank in range(n_ranks)
        ]

    def begin(self, pass_id: int, n_tokens: int = 1) -> None:
        for rank in self.ranks:
            rank.begin(pass_id, n_tokens)

    def deliver(self, sender: int, receiver: int) -> None:
        """The next frame, as a connection does it."""
        kind, header, payload = self.wires[sender, receiver].frames.popleft()
        assert kind is (Kind.PEER_PARTIAL if receiver else Kind.PARTIAL)
        give(self.ranks[receiver], self.wires[receiver, sender], header, payload, kind)

    def deliver_any(self, chance: random.Random) -> None:
        """A frame, or the first half of one, or the second of one whose first is there."""
        ready = [pair for pair, wire in self.wires.items() if wire.frames or pair in self.halves]
        if not ready:
            return
        pair = chance.choice(ready)
        if pair in self.halves:
            self.halves.pop(pair)()
        elif chance.random() < 0.5:
            self.deliver(*pair)
        else:
            self.deliver_half(*pair)

    def deliver_half(self, sender: int, receiver: int) -> None:
        """The reader knows where the payload goes, and has not all of it."""
        rank, link = self.ranks[receiver], self.wires[receiver, sender]
        kind, header, payload = self.wires[sender, receiver].frames.popleft()
        if payload is None:
            rank.received(link, header, None)
            return
        expected = link.expected
        if expected is not None and expected.head == encode_tensor_head(kind, header, len(payload)):
            link.expected = None
            target: memoryview | None = expected.payload
        else:
            expected, target = None, rank.payload_buffer(link, header, len(payload))
        if target is None:
            return
        half = len(payload) // 2
        target[:half] = payload[:half]

        def rest() -> None:
            target[half : len(payload)] = payload[half:]
            if expected is not None:
                expected.arrived(expected.head)
            else:
                rank.received(link, header, target[: len(payload)])

        self.halves[sender, receiver] = rest

    def deliver_all(self) -> None:
        for pair, wire in self.wires.items():
            while wire.frames:
                self.deliver(*pair)


def give(
    rank: DirectRank, link: Wire, header: TensorHeader, payload: bytes | None, kind: Kind = Kind.PEER_PARTIAL
) -> None:
    expected = link.expected
    if payload is None:
        rank.received(link, header, None)
    elif expected is not None and expected.head == encode_tensor_head(kind, header, len(payload)):
        link.expected = None
        expected.payload[:] = payload
        expected.arrived(expected.head)
    else:
        target = rank.payload_buffer(link, header, len(payload))
        if target is not None:
            target[: len(payload)] = payload
            rank.received(link, header, target[: len(payload)])


def header_of(pass_id: int, step: int, n_tokens: int = 1, **fields: Any) -> TensorHeader:
    values = {"term": TERM, "wire_dtype": WireDtype.FP32} | fields
    return TensorHeader(values["term"], pass_id, step, n_tokens, values["wire_dtype"])


async def walk(rank: DirectRank, partials: list[np.ndarray | None]) -> list[bytes]:
    return [(await rank.reduce(step, partial)).tobytes() for step, partial in enumerate(partials)]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 5), st.integers(1, MAX_TOKENS), st.sampled_from(list(WireDtype)), st.randoms(use_true_random=False)
)
def test_all_ranks_have_the_bits_of_the_star_whatever_arrives_when(
    n_ranks: int, n_tokens: int, dtype: WireDtype, chance: random.Random
) -> None:
    """Several passes one after the other; who has done with one begins the next at once."""
    rng = np.random.default_rng(chance.randrange(1 << 30))
    n_passes, n_steps = 3, 4

    def one() -> np.ndarray | None:
        return None if chance.random() < 0.2 else rng.normal(size=(n_tokens, HIDDEN)).astype(np.float32)

    partials = [[[one() for _ in range(n_ranks)] for _ in range(n_steps)] for _ in range(n_passes)]

    async def rank_of(mesh: Mesh, number: int) -> list[bytes]:
        got = []
        for pass_id in range(n_passes):
            if number:
                await started[pass_id].wait()
            mesh.ranks[number].begin(pass_id, n_tokens)
            started[pass_id].set()  # of rank 0, which sends START
            got += await walk(mesh.ranks[number], [step[number] for step in partials[pass_id]])
        return got

    started = [asyncio.Event() for _ in range(n_passes)]

    async def scenario() -> None:
        mesh = Mesh(n_ranks, dtype)
        tasks = [asyncio.create_task(rank_of(mesh, number)) for number in range(n_ranks)]
        while not all(task.done() for task in tasks):
            mesh.deliver_any(chance)
            if chance.random() < 0.7:
                await asyncio.sleep(0)
        wanted = [judge(step, dtype, n_tokens).tobytes() for steps in partials for step in steps]
        for task in tasks:
            assert task.result() == wanted

    run(scenario())


@pytest.mark.parametrize("dtype", list(WireDtype))
def test_the_star_has_the_same_bits(dtype: WireDtype) -> None:
    async def scenario() -> None:
        partials = list(np.random.default_rng(1).normal(size=(3, 2, HIDDEN)).astype(np.float32))
        net = Net(3, dtype)
        net.begin(1, 2)
        tasks = [asyncio.create_task(net.star(rank).reduce(0, partials[rank])) for rank in range(3)]
        await turns()
        while net.deliver_any(random.Random(1)):
            await turns()
        mesh = Mesh(3, dtype)
        mesh.begin(1, 2)
        others = [asyncio.create_task(rank.reduce(0, partials[n])) for n, rank in enumerate(mesh.ranks)]
        await turns()
        mesh.deliver_all()
        assert len({(await task).tobytes() for task in (*tasks, *others)}) == 1

    run(scenario())


def test_a_pass_that_was_dropped_leaves_nothing_behind() -> None:
    """One peer has begun the next pass before this rank hears that the one at hand is dropped."""

    async def scenario() -> None:
        mesh = Mesh(3)
        mesh.begin(1)
        first = [asyncio.create_task(rank.reduce(0, ONE)) for rank in mesh.ranks]
        await turns()
        for pair in ((1, 2), (0, 2), (1, 0), (2, 0), (0, 1), (2, 1)):
            mesh.deliver(*pair)
        await asyncio.gather(*first)
        ahead = asyncio.create_task(mesh.ranks[1].reduce(1, ONE))
        late = asyncio.create_task(mesh.ranks[2].reduce(1, ONE))
        await turns()
        mesh.deliver(1, 2)
        for rank in (0, 1):  # the pass is dropped; 2 does not know it yet
            mesh.ranks[rank].fail(PassDroppedError("dropped"))
            mesh.ranks[rank].begin(2, 1)
        with pytest.raises(PassDroppedError):
            await ahead
        new = [asyncio.create_task(mesh.ranks[rank].reduce(0, 2 * ONE)) for rank in (0, 1)]
        await turns()
        mesh.deliver_all()
        mesh.ranks[2].fail(PassDroppedError("dropped"))
        with pytest.raises(PassDroppedError):
            await late
        mesh.ranks[2].begin(2, 1)
        new.append(asyncio.create_task(mesh.ranks[2].reduce(0, 2 * ONE)))
        await turns()
        mesh.deliver_all()
        assert [float((await task)[0, 0]) for task in new] == [6.0, 6.0, 6.0]

    run(scenario())


@pytest.mark.parametrize(
    ("header", "size_bytes"),
    [
        (header_of(1, 1), None),  # ahead of a partial that is not there
        (header_of(1, 2), None),
        (header_of(2, 1), None),  # a new pass begins at its beginning
        (header_of(1, 0, 2), None),
        (header_of(1, 0), 4),
        (header_of(2, 0, MAX_TOKENS + 1), None),
        (header_of(2, 0, 2), 4),
        (header_of(1, 0, term=TERM + 1), None),
        (header_of(1, 0, wire_dtype=WireDtype.BF16), None),
        (header_of(2, 0, wire_dtype=WireDtype.BF16), None),
    ],
)
def test_what_no_peer_sends_is_refused(header: TensorHeader, size_bytes: int | None) -> None:
    mesh = Mesh(3)
    mesh.begin(1)
    if size_bytes is None:
        size_bytes = wire_bytes(header.wire_dtype, header.n_tokens, HIDDEN)
    with pytest.raises(RemoteProtocolError):
        mesh.ranks[1].payload_buffer(mesh.wires[1, 2], header, size_bytes)
    with pytest.raises(RemoteProtocolError):
        mesh.ranks[1].payload_buffer(Wire(), header_of(1, 0), 4 * HIDDEN)


def test_nobody_is_ahead_of_the_hub() -> None:
    mesh = Mesh(2)
    mesh.begin(1)
    with pytest.raises(RemoteProtocolError):
        mesh.ranks[0].payload_buffer(mesh.wires[0, 1], header_of(2, 0), 4 * HIDDEN)


def test_a_second_partial_of_a_step_is_refused() -> None:
    mesh = Mesh(3)
    mesh.begin(1)
    rank, link = mesh.ranks[1], mesh.wires[1, 2]
    data = bytes(4 * HIDDEN)
    give(rank, link, header_of(1, 0), data)
    with pytest.raises(RemoteProtocolError):
        give(rank, link, header_of(1, 0), data)
    give(rank, link, header_of(2, 0), data)
    with pytest.raises(RemoteProtocolError):
        give(rank, link, header_of(2, 0), data)
    give(rank, link, header_of(3, 0), data)  # it has done with pass 2
    give(rank, link, header_of(0, 0), data)  # over


def test_what_was_sent_ahead_for_another_size_of_pass_ends_it() -> None:
    async def scenario() -> None:
        mesh = Mesh(2)
        mesh.begin(1)
        give(mesh.ranks[1], mesh.wires[1, 0], header_of(2, 0, 2), bytes(8 * HIDDEN))
        mesh.ranks[1].begin(2, 1)
        with pytest.raises(RemoteProtocolError):
            await mesh.ranks[1].reduce(0, ONE)

    run(scenario())


def test_who_sends_what_is_no_number_is_found_by_all_and_says_so_itself() -> None:
    async def scenario() -> None:
        mesh = Mesh(3)
        mesh.begin(1)
        partials = [ONE, ONE, np.full_like(ONE, np.nan)]
        tasks = [asyncio.create_task(rank.reduce(0, part)) for rank, part in zip(mesh.ranks, partials, strict=True)]
        await turns()
        mesh.deliver_all()
        for task, kind in zip(tasks, (NumericError, PassDroppedError, NumericError), strict=True):
            with pytest.raises(kind):
                await task
        assert all(rank.culprits == (2,) for rank in mesh.ranks)

    run(scenario())


def test_a_lost_peer_ends_the_pass_and_the_wait_names_who_is_missing() -> None:
    async def scenario() -> None:
        mesh = Mesh(3)
        mesh.begin(1)
        task = asyncio.create_task(mesh.ranks[0].reduce(0, ONE))
        await turns()
        assert mesh.ranks[0].waits_for == (1, 2)
        give(mesh.ranks[0], mesh.wires[0, 1], header_of(1, 0), bytes(4 * HIDDEN), Kind.PARTIAL)
        assert mesh.ranks[0].waits_for == (2,)
        mesh.ranks[0].fail(DeviceLostError("gone"))
        with pytest.raises(DeviceLostError):
            await task
        mesh.wires[1, 2].broken = DeviceLostError("reset")
        with pytest.raises(DeviceLostError, match="reset"):
            await mesh.ranks[1].reduce(0, ONE)

    run(scenario())


def test_a_rank_needs_a_link_to_each_other() -> None:
    with pytest.raises(LocalProtocolError):
        DirectRank(1, 1, {0: Wire(), 3: Wire()}, hidden_size=HIDDEN, max_tokens=1, wire_dtype=WireDtype.FP32)

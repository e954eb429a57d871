from dataclasses import dataclass, field
from typing import Any

from tests.unit.engine.peers import FakeConnection
from tpid.comm.messages import Links
from tpid.device import DeviceId, LinkCost
from tpid.engine.link_book import AGAIN_S, LOOK_S, ROUND_S, LinkBook

ME, NEAR, FAR = (DeviceId(f"{number:064x}") for number in range(3))


@dataclass
class FakeMeter:
    busy: bool = False
    result: LinkCost | None = None

    def drop(self) -> None:
        self.busy, self.result = False, None


@dataclass(eq=False)
class Peer(FakeConnection):
    meter: FakeMeter = field(default_factory=FakeMeter)
    rtt_s: float | None = 0.5
    n_rounds: int = 0

    def probe(self) -> None:
        self.n_rounds += 1
        self.meter.busy = True

    def done(self, cost: LinkCost) -> None:
        self.meter.busy, self.meter.result = False, cost


def book_of(*peers: Peer) -> tuple[LinkBook, dict[DeviceId, Any]]:
    known: dict[DeviceId, Any] = {DeviceId(peer.id): peer for peer in peers}
    return LinkBook(ME, lambda: known, lambda: True), known


def test_one_link_is_measured_after_the_other_and_all_are_told() -> None:
    near, far = Peer(NEAR), Peer(FAR)
    book, _ = book_of(near, far)
    book.look(1.0, idle=True)
    assert (near.n_rounds, far.n_rounds) == (1, 0)
    book.look(1.2, idle=True)
    assert (near.n_rounds, far.n_rounds) == (1, 0)  # under way
    near.done(LinkCost(0.001, 1e7, 1e-5))
    book.look(1.4, idle=True)
    assert (near.n_rounds, far.n_rounds) == (1, 1)
    assert near.told == far.told == [Links(links=[(NEAR, 0.001, 1e7, 1e-5)])]
    assert book.network.between(ME, NEAR) == LinkCost(0.001, 1e7, 1e-5)
    assert book.network.between(ME, FAR) == LinkCost(rtt_s=0.5)  # what the heartbeats say


def test_what_work_has_disturbed_is_not_taken() -> None:
    near = Peer(NEAR)
    book, _ = book_of(near)
    book.look(1.0, idle=True)
    near.done(LinkCost(0.9))
    book.look(1.2, idle=False)
    assert book.network.between(ME, NEAR) == LinkCost(rtt_s=0.5)
    assert near.n_rounds == 1
    book.look(1.2 + AGAIN_S, idle=True)
    assert near.n_rounds == 2


def test_a_round_without_an_end_is_given_up() -> None:
    near, far = Peer(NEAR), Peer(FAR)
    book, _ = book_of(near, far)
    book.look(1.0, idle=True)
    book.look(1.0 + ROUND_S, idle=True)
    assert far.n_rounds == 1


def test_the_median_of_the_last_rounds_counts() -> None:
    near = Peer(NEAR)
    book, _ = book_of(near)
    now = 1.0
    for rtt_s in (0.001, 0.9, 0.0011):
        book.look(now, idle=True)
        near.done(LinkCost(rtt_s))
        book.look(now + LOOK_S, idle=True)
        now += AGAIN_S
    assert book.network.between(ME, NEAR).rtt_s == 0.0011


def test_of_what_both_ends_say_the_less_counts() -> None:
    near, far = Peer(NEAR, rtt_s=0.004), Peer(FAR, rtt_s=None)
    book, _ = book_of(near, far)
    book.heard(NEAR, Links(links=[(ME, 0.001, 1e7, 0.0), (FAR, 0.003, 0.0, 1e-5)]))
    book.heard(FAR, Links(links=[(NEAR, 0.002, 1e6, 0.0)]))
    assert book.network.between(ME, NEAR) == LinkCost(0.001, 1e7, 0.0)
    assert book.network.between(NEAR, FAR) == LinkCost(0.002, 1e6, 1e-5)
    book.lost(NEAR)
    assert book.network.between(NEAR, FAR) == LinkCost(0.002, 1e6, 0.0)


def test_a_device_that_joins_is_told_and_measured_anew() -> None:
    near, far = Peer(NEAR), Peer(FAR)
    book, known = book_of(near)
    book.look(1.0, idle=True)
    near.done(LinkCost(0.001))
    book.look(1.2, idle=True)
    known[FAR] = far
    book.joined(far)  # type: ignore[arg-type]
    assert far.told == [Links(links=[(NEAR, 0.001, 0.0, 0.0)])]
    book.look(1.4, idle=True)
    assert far.n_rounds == 1

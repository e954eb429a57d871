"""Rounds over a made-up link whose delay, rate and cost of a message are known."""

import pytest

from tpid.comm.link_meter import BURST, N_BURSTS, N_LARGE, N_SMALL, LinkMeter
from tpid.comm.messages import Probe


class FakeLink:
    """Answers `delay_s` after what came before has passed."""

    def __init__(self, rtt_s: float, bytes_s: float, message_s: float) -> None:
        self.rtt_s, self.bytes_s, self.message_s = rtt_s, bytes_s, message_s
        self.now_s = 100.0
        self.meter = LinkMeter(lambda: self.now_s)
        self.n_probes = 0

    def carry(self, probes: list[Probe]) -> None:
        while probes:
            self.now_s += self.rtt_s - self.message_s
            again: list[Probe] = []
            for probe in probes:
                assert not again
                self.n_probes += 1
                self.now_s += self.message_s + len(probe.pad) / self.bytes_s
                again = self.meter.answered(probe.sent_s)
            probes = again


def test_a_round_finds_what_the_link_is() -> None:
    link = FakeLink(0.004, 4e7, 3e-5)
    link.carry(link.meter.begin())
    found = link.meter.result
    assert found is not None
    assert not link.meter.busy
    assert (found.rtt_s, found.bytes_s, found.message_s) == pytest.approx((0.004, 4e7, 3e-5), rel=0.01)
    assert link.meter.jitter_s == pytest.approx(0, abs=1e-9)
    assert link.n_probes == N_SMALL + N_LARGE + N_BURSTS * BURST


def test_jitter_is_what_small_probes_differ_by_but_for_one() -> None:
    link = FakeLink(0.004, 4e7, 0.0)
    probes, later_s = link.meter.begin(), [0.0, 0.002, 0.001, 0.5, *[0.0] * (N_SMALL - 4)]
    for more_s in later_s:
        link.now_s += more_s
        (probe,) = probes
        link.now_s += link.rtt_s
        probes = link.meter.answered(probe.sent_s)
    link.carry(probes)
    assert link.meter.jitter_s == pytest.approx(0.002)


def test_what_is_no_answer_of_the_round_changes_nothing() -> None:
    link = FakeLink(0.001, 1e9, 1e-5)
    assert link.meter.answered(1.0) == []
    first = link.meter.begin()
    assert link.meter.answered(first[0].sent_s + 1) == []
    again = link.meter.begin()
    link.now_s += 0.001
    assert link.meter.answered(again[0].sent_s) != []
    assert link.meter.answered(again[0].sent_s) == []  # a second time


def test_a_round_that_was_disturbed_gives_nothing() -> None:
    link = FakeLink(0.001, 1e9, 1e-5)
    link.carry(link.meter.begin())
    link.meter.drop()
    assert link.meter.result is None


def test_a_wire_too_fast_to_be_seen_has_a_rate() -> None:
    link = FakeLink(0.001, 1e15, 0.0)
    link.carry(link.meter.begin())
    assert link.meter.result is not None
    assert 0 < link.meter.result.bytes_s <= 2e9
    assert link.meter.result.message_s == 0.0

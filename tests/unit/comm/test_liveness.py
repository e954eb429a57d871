"""The machine of heartbeats under a clock that the test moves."""

from hypothesis import given
from hypothesis import strategies as st

from tpid.comm.liveness import SECOND_LOOK_S, Liveness, Loss
from tpid.comm.settings import CommSettings

SETTINGS = CommSettings()
LIMIT_S = SETTINGS.silence_timeout_s
INTERVAL_S = SETTINGS.ping_interval_s


def begun(now_s: float = 100.0) -> Liveness:
    liveness = Liveness(SETTINGS)
    liveness.heard(now_s)  # the hello
    assert liveness.beat(now_s, reads=True).ping
    return liveness


def run_silent(liveness: Liveness, now_s: float) -> tuple[float, Loss, int]:
    """When and how the device is lost if nothing more comes, and the pings until then."""
    pings = 0
    while True:
        beat = liveness.beat(now_s, reads=True)
        if beat.loss is not None:
            return now_s, beat.loss, pings
        pings += beat.ping
        assert beat.next_s > now_s
        now_s = beat.next_s


def test_silence_is_a_loss_after_its_time_and_one_more_look() -> None:
    lost_s, loss, pings = run_silent(begun(), 100.0)
    assert (loss, pings) == (Loss.SILENT, 4)  # one a half second, after that of the begin
    assert abs(lost_s - (100.0 + LIMIT_S + SECOND_LOOK_S)) < 1e-9


def test_any_byte_is_a_sign_of_life() -> None:
    liveness, now_s = begun(), 100.0
    for _ in range(50):
        now_s += LIMIT_S - 0.01
        liveness.heard(now_s)
        assert liveness.beat(now_s, reads=True).loss is None


def test_what_came_while_this_side_stood_still_counts_at_the_second_look() -> None:
    liveness = begun()
    beat = liveness.beat(500.0, reads=True)
    assert (beat.loss, beat.ping) == (None, False)
    liveness.heard(500.01)
    assert liveness.beat(beat.next_s, reads=True).loss is None
    lost_s, loss, _ = run_silent(liveness, beat.next_s)
    assert loss is Loss.SILENT
    assert lost_s > 500.0 + LIMIT_S


def test_a_device_that_slept_knows_at_once() -> None:
    liveness = begun()
    first = liveness.beat(4000.0, reads=True)
    second = liveness.beat(first.next_s, reads=True)
    assert (second.loss, second.silent_s) == (Loss.SILENT, first.next_s - 100.0)


def test_while_nobody_reads_silence_means_nothing() -> None:
    liveness = begun()
    for now_s in (200.0, 201.0, 300.0):
        assert liveness.beat(now_s, reads=False).loss is None


def test_bytes_that_wait_too_long_are_a_loss_and_those_that_go_are_none() -> None:
    liveness = begun()
    liveness.write_paused(101.0)
    assert liveness.blocked
    now_s = 101.0 + LIMIT_S
    liveness.heard(now_s)
    beat = liveness.beat(now_s, reads=True)
    assert beat.loss is None
    liveness.write_resumed()  # this side had stood still: now it has written
    assert liveness.beat(beat.next_s, reads=True).loss is None
    liveness.write_paused(200.0)
    liveness.heard(300.0)
    beat = liveness.beat(300.0, reads=True)
    assert liveness.beat(beat.next_s, reads=True).loss is Loss.DOES_NOT_READ


@given(st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=60))
def test_a_loss_always_follows_a_full_time_of_silence(steps: list[tuple[float, bool]]) -> None:
    liveness, now_s, heard_s = begun(), 100.0, 100.0
    for after_s, heard in steps:
        now_s += after_s
        if heard:
            liveness.heard(now_s)
            heard_s = now_s
        beat = liveness.beat(now_s, reads=True)
        assert beat.next_s > now_s
        if beat.loss is not None:
            assert now_s - heard_s >= LIMIT_S
            return
        assert beat.next_s <= max(now_s + SECOND_LOOK_S, heard_s + LIMIT_S)

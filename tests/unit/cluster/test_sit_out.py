"""How long a device that failed is left out."""

from hypothesis import given
from hypothesis import strategies as st

from tpid.cluster.sit_out import FIRST_S, FORGET_S, MAX_DEVICES, MOST_S, SitOut

A, B = "a", "b"


def test_a_device_sits_out_and_comes_back() -> None:
    sit_out = SitOut()
    assert sit_out.blame(A, "its disk broke", 100.0) == FIRST_S  # type: ignore[arg-type]
    assert sit_out.out(100.0 + FIRST_S - 0.1) == {A: "its disk broke"}
    assert sit_out.out(100.0 + FIRST_S) == {}


def test_each_failure_doubles_the_time_up_to_a_limit() -> None:
    sit_out, now, times = SitOut(), 0.0, []
    for _ in range(8):
        times.append(sit_out.blame(A, "it failed", now))  # type: ignore[arg-type]
        now += times[-1]
    assert times[:3] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S]
    assert times[-1] == MOST_S


def test_failures_of_one_plan_count_once() -> None:
    sit_out = SitOut()
    sit_out.blame(A, "first", 0.0)  # type: ignore[arg-type]
    assert sit_out.blame(A, "second", 4.0) == FIRST_S - 4.0  # type: ignore[arg-type]
    assert sit_out.out(4.0) == {A: "first"}


def test_a_device_that_was_well_for_long_begins_anew() -> None:
    sit_out = SitOut()
    sit_out.blame(A, "it failed", 0.0)  # type: ignore[arg-type]
    assert sit_out.blame(A, "it failed", FIRST_S + FORGET_S) == FIRST_S  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.integers(0, 400), st.floats(0, 50)), max_size=600))
def test_nobody_sits_out_for_longer_than_the_limit_and_the_table_is_bounded(blames: list[tuple[int, float]]) -> None:
    sit_out, now = SitOut(), 0.0
    for device, pause_s in blames:
        now += pause_s
        assert 0 < sit_out.blame(str(device), "it failed", now) <= MOST_S  # type: ignore[arg-type]
        assert len(sit_out._records) <= MAX_DEVICES
    assert sit_out.out(now + MOST_S) == {}

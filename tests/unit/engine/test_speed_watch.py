import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpid.engine.speed_watch import STEP_S, SpeedWatch, differs

N_STEPS = 44
BYTES = 600_000_000


def passes(watch: SpeedWatch, bytes_s: float, count: int, read_bytes: int = BYTES) -> None:
    for _ in range(count):
        watch.passed(read_bytes, N_STEPS, read_bytes / bytes_s + N_STEPS * STEP_S, 1e10)


def test_before_a_pass_nothing_is_known() -> None:
    assert SpeedWatch().estimate_bytes_s is None


def test_a_device_whose_cores_are_taken_away_is_slow_within_a_short_answer() -> None:
    watch = SpeedWatch()
    passes(watch, 1e10, 50)
    assert watch.estimate_bytes_s == pytest.approx(1e10)
    passes(watch, 4e9, 32)
    assert watch.estimate_bytes_s == pytest.approx(4e9, rel=0.05)
    passes(watch, 1e10, 32)
    assert watch.estimate_bytes_s == pytest.approx(1e10, rel=0.05)


def test_one_hiccup_changes_little() -> None:
    watch = SpeedWatch()
    passes(watch, 1e10, 5)
    passes(watch, 1e6, 1)
    assert watch.estimate_bytes_s is not None
    assert not differs(watch.estimate_bytes_s, 1e10, 1.5)


def test_what_a_small_share_takes_says_nothing() -> None:
    watch = SpeedWatch()
    passes(watch, 1e10, 10, read_bytes=1_000_000)
    watch.passed(0, N_STEPS, 1.0, 1e10)
    assert watch.estimate_bytes_s is None


def test_a_new_measurement_counts_alone() -> None:
    watch = SpeedWatch()
    passes(watch, 1e9, 50)
    watch.measured(8e9)
    assert watch.estimate_bytes_s == pytest.approx(8e9)


@given(st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 1000), st.floats(0, 1e6))), st.floats(0, 1e18))
def test_any_passes_give_a_speed_or_none(told: list[tuple[int, int, float]], before_bytes_s: float) -> None:
    watch = SpeedWatch()
    for read_bytes, n_steps, compute_s in told:
        watch.passed(read_bytes, n_steps, compute_s, before_bytes_s)
    estimate = watch.estimate_bytes_s
    assert estimate is None or estimate > 0

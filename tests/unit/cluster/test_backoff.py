from hypothesis import given
from hypothesis import strategies as st

from tpid.cluster.backoff import Backoff


def test_it_doubles_up_to_its_most() -> None:
    backoff = Backoff(first_s=0.5, most_s=3.0)
    assert [backoff.delay_s(failures, 1.0) for failures in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert backoff.delay_s(0, 0.0) == 0.25


@given(st.integers(0, 10**9), st.floats(0, 1, exclude_max=True))
def test_it_is_bounded_however_long_a_device_is_away(failures: int, chance: float) -> None:
    backoff = Backoff()
    assert backoff.first_s / 2 <= backoff.delay_s(failures, chance) <= backoff.most_s

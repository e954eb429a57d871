import random

from tpid.comm.patience import MOST_S, Patience


def after(waits_s: list[float]) -> Patience:
    patience = Patience()
    for wait_s in waits_s:
        patience.waited(wait_s)
    return patience


def test_it_stays_where_waits_are_short() -> None:
    assert Patience().stays
    assert after([20e-6] * 50).stays
    assert after([200e-6] * 50).stays
    assert not after([5e-3] * 50).stays


def test_hiccups_do_not_count_and_changes_do() -> None:
    rng = random.Random(1)
    waits_s = [rng.uniform(10e-6, 30e-6) for _ in range(80)] + [0.5] * 20
    rng.shuffle(waits_s)
    patience = after(waits_s)
    assert patience.stays
    for _ in range(40):
        patience.waited(2 * MOST_S)
    assert not patience.stays
    for _ in range(40):
        patience.waited(20e-6)
    assert patience.stays


def test_no_wait_is_too_long_to_be_forgotten() -> None:
    patience = after([120.0] * 1000)
    for _ in range(70):
        patience.waited(20e-6)
    assert patience.stays

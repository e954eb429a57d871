import random

from tpid.comm.patience import MOST_S, SPIN_S, Patience


def after(waits_s: list[float]) -> Patience:
    patience = Patience()
    for wait_s in waits_s:
        patience.waited(wait_s)
    return patience


def test_it_begins_at_the_socket() -> None:
    assert Patience().stays
    assert Patience().spin_s == SPIN_S


def test_waits_of_a_wire_and_of_a_radio() -> None:
    wire = after([20e-6] * 50)
    assert (wire.stays, wire.spin_s) == (True, SPIN_S)
    uneven = after([200e-6] * 50)
    assert (uneven.stays, uneven.spin_s) == (True, 0.0)
    radio = after([5e-3] * 50)
    assert (radio.stays, radio.spin_s) == (False, 0.0)


def test_hiccups_do_not_count_and_changes_do() -> None:
    rng = random.Random(1)
    waits_s = [rng.uniform(10e-6, 30e-6) for _ in range(80)] + [0.5] * 20
    rng.shuffle(waits_s)
    patience = after(waits_s)
    assert patience.spin_s == SPIN_S
    for _ in range(40):
        patience.waited(2 * MOST_S)
    assert not patience.stays
    for _ in range(40):
        patience.waited(20e-6)
    assert patience.spin_s == SPIN_S


def test_no_wait_is_too_long_to_be_forgotten() -> None:
    patience = after([120.0] * 1000)
    for _ in range(70):
        patience.waited(20e-6)
    assert patience.stays

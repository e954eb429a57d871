from tpid.transfer.pace import BUSY_BYTES_S, SLICE_BYTES, Pacer


def test_nothing_waits_while_nothing_computes() -> None:
    pacer = Pacer(0.0)
    assert [pacer.wait_s(SLICE_BYTES, now / 1e3, busy=False) for now in range(100)] == [0.0] * 100


def test_while_a_pass_runs_so_much_goes_in_a_second_and_no_more() -> None:
    pacer, now, sent = Pacer(0.0), 0.0, 0
    while now < 1.0:
        now += pacer.wait_s(SLICE_BYTES, now, busy=True)
        sent += SLICE_BYTES
    assert abs(sent - BUSY_BYTES_S) <= 2 * SLICE_BYTES


def test_time_without_a_question_is_no_credit() -> None:
    pacer = Pacer(0.0)
    pacer.wait_s(SLICE_BYTES, 0.0, busy=True)
    assert pacer.wait_s(SLICE_BYTES, 60.0, busy=True) == 0.0
    assert pacer.wait_s(SLICE_BYTES, 60.0, busy=True) > 0.0

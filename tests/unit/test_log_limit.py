import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpid.log_limit import MAX_KINDS, LineLimit, RepetitionFilter


def test_some_lines_at_once_then_one_an_interval_and_the_rest_is_counted() -> None:
    limit = LineLimit(max_at_once=2, interval_s=10)
    assert [limit.admit(0.0) for _ in range(5)] == [0, 0, None, None, None]
    assert limit.admit(9.0) is None
    assert limit.admit(10.0) == 4
    assert limit.admit(10.0) is None
    assert limit.admit(1000.0) == 1
    assert [limit.admit(1000.0) for _ in range(2)] == [0, None]  # no more at once than at the start


def test_a_clock_that_steps_back_opens_nothing() -> None:
    limit = LineLimit(max_at_once=1, interval_s=1)
    assert [limit.admit(now) for now in (100.0, 50.0, 50.5)] == [0, None, None]


@given(st.lists(st.floats(0, 5), max_size=200), st.integers(1, 5), st.floats(0.5, 10))
def test_in_any_time_no_more_than_its_share_and_no_line_is_forgotten(
    waits: list[float], max_at_once: int, interval_s: float
) -> None:
    limit = LineLimit(max_at_once, interval_s)
    now_s, told = 0.0, []
    for wait in waits:
        now_s += wait
        told.append(limit.admit(now_s))
    admitted = [left_out for left_out in told if left_out is not None]
    assert len(admitted) <= max_at_once + now_s / interval_s + 1e-6
    tail = len(told) if not admitted else told[::-1].index(admitted[-1])
    assert sum(admitted) + len(admitted) + tail == len(told)


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def now_s() -> list[float]:
    return [0.0]


@pytest.fixture
def handler(now_s: list[float]) -> Lines:
    handler = Lines()
    handler.addFilter(RepetitionFilter(lambda: LineLimit(2, 10), lambda: now_s[0]))
    return handler


@pytest.fixture
def log(handler: Lines) -> logging.Logger:
    log = logging.Logger("of this test")
    log.addHandler(handler)
    return log


def test_a_kind_is_the_message_before_its_arguments(log: logging.Logger, handler: Lines, now_s: list[float]) -> None:
    for port in range(5):
        log.info("refused port=%d", port)
    log.info("another 100%% line of %s", "its own")
    assert handler.lines == ["refused port=0", "refused port=1", "another 100% line of its own"]
    now_s[0] = 10.0
    log.info("refused port=%d", 99)
    assert handler.lines[-1] == "refused port=99 left_out=3"


def test_what_is_remembered_of_kinds_is_bounded(log: logging.Logger, handler: Lines) -> None:
    for _ in range(3):
        for number in range(MAX_KINDS + 1):
            log.info(f"kind {number}")
    filter_ = handler.filters[0]
    assert isinstance(filter_, RepetitionFilter)
    assert len(filter_._limits) == MAX_KINDS

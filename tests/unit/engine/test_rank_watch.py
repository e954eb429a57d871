"""Whom the coordinator gives up, and when."""

from hypothesis import given
from hypothesis import strategies as st

from tpid.engine.rank_watch import LOOK_S, SILENT_S, STUCK_S, Overdue, RankWatch

A, B = "a", "b"


def watch_of(*devices: str) -> RankWatch:
    watch = RankWatch(0.0)
    watch.waits_for(devices, 0, 0.0)  # type: ignore[arg-type]
    return watch


def look_until(
    watch: RankWatch, end_s: float, *, begin_s: float = 0.0, working: str = "", advances: bool = True
) -> tuple[float, Overdue] | None:
    """Look every `LOOK_S`; `working` devices tell their progress before each look."""
    now, done = begin_s, 0
    while now < end_s:
        now += LOOK_S
        done += advances
        for device in working:
            watch.heard(device, done, now)  # type: ignore[arg-type]
        overdue = watch.look(now)
        if overdue is not None:
            return now, overdue
    return None


def test_a_rank_that_says_nothing_of_its_work_is_given_up() -> None:
    found = look_until(watch_of(A, B), 60.0, working=B)
    assert found is not None
    now, overdue = found
    assert overdue.device == A
    assert SILENT_S <= now <= SILENT_S + LOOK_S
    assert "3.0 s" in overdue.reason


def test_a_slow_rank_that_gets_on_keeps_its_place() -> None:
    assert look_until(watch_of(A), 10 * STUCK_S, working=A) is None


def test_a_rank_that_says_the_same_for_ever_is_stuck() -> None:
    found = look_until(watch_of(A), 2 * STUCK_S, working=A, advances=False)
    assert found is not None
    assert STUCK_S <= found[0] <= STUCK_S + 2 * LOOK_S


def test_the_next_step_begins_anew() -> None:
    watch = watch_of(A)
    assert look_until(watch, 2.5) is None
    watch.waits_for([A], 1, 2.5)  # type: ignore[list-item]
    assert look_until(watch, 5.0, begin_s=2.5) is None
    assert look_until(watch, 6.0, begin_s=5.0) is not None


def test_who_has_delivered_is_not_waited_for() -> None:
    watch = watch_of(A, B)
    watch.waits_for([B], 0, 1.0)  # type: ignore[list-item]
    found = look_until(watch, 60.0)
    assert found is not None
    assert found[1].device == B


def test_own_standstill_is_not_held_against_the_others() -> None:
    """A laptop that slept for ten minutes: what the others said meanwhile is still unread."""
    watch = watch_of(A)
    assert watch.look(LOOK_S) is None
    assert watch.look(600.0) is None
    counted_s = 2 * LOOK_S  # of the ten minutes
    found = look_until(watch, 660.0, begin_s=600.0)
    assert found is not None
    assert found[0] == 600.0 + SILENT_S - counted_s


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.floats(0.0, 20.0)), max_size=40))
def test_only_who_is_waited_for_is_blamed_and_never_early(steps: list[tuple[str, int, float]]) -> None:
    watch, now, owed, since = RankWatch(0.0), 0.0, 0, 0.0
    waiting: set[str] = set()
    for device, kind, pause_s in steps:
        now += pause_s
        match kind:
            case 0:
                watch.heard(device, owed, now)  # type: ignore[arg-type]
            case 1:
                waiting ^= {device}
                owed, since = owed + 1, now
                watch.waits_for(waiting, owed, now)  # type: ignore[arg-type]
            case _:
                overdue = watch.look(now)
                if overdue is not None:
                    assert overdue.device in waiting
                    assert now - since >= SILENT_S

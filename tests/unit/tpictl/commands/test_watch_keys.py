import pytest

from tpictl.commands.watch_keys import Quit, Remove, WatchKeys
from tpictl.commands.watching import Rates
from tpictl.view.watch_rows import Row


def _row(name: str, *, is_me: bool = False) -> Row:
    return Row(name[0] * 4, name, is_me, "connected", None, None, None, None, None)


ROWS = [_row("laptop", is_me=True), _row("desktop"), _row("pi")]


def test_quit_pause_and_sort() -> None:
    keys = WatchKeys()
    assert keys.press("p", ROWS) is None
    assert keys.paused
    keys.press("p", ROWS)
    assert not keys.paused
    sorts = [keys.sort]
    for _ in range(4):
        keys.press("s", ROWS)
        sorts.append(keys.sort)
    assert sorts == ["name", "share", "state", "round trip", "name"]
    assert keys.press("?", ROWS) is None
    assert keys.press("q", ROWS) == Quit()


def test_a_device_goes_only_after_a_yes() -> None:
    keys = WatchKeys()
    keys.press("x", ROWS)
    assert keys.numbers == {"dddd": "2", "pppp": "3"}
    assert keys.bottom == "Remove which? 2 3; any other key: none"
    keys.press("3", list(reversed(ROWS)))  # the order on the screen has changed meanwhile
    assert keys.bottom == "Put pi out of this home, until it is invited again? y/n"
    assert keys.press("y", ROWS) == Remove("pi")


@pytest.mark.parametrize("typed", ["x1", "xq", "x2n", "x2q", "x2\r", "x9y"])
def test_anything_else_removes_nothing(typed: str) -> None:
    keys = WatchKeys()
    assert [keys.press(key, ROWS) for key in typed] == [None] * len(typed)
    assert keys.numbers == {}


def test_nobody_else_is_here() -> None:
    keys = WatchKeys()
    keys.press("x", ROWS[:1])
    assert keys.bottom == "No other device is here."


def test_rates_are_even_and_survive_a_restart() -> None:
    rates = Rates()
    for time_s, written in enumerate([10, 10, 12, 12, 14, 14]):
        rates.add(float(time_s), written)
    assert list(rates.values)[-3:] == pytest.approx([2 / 3, 4 / 3, 2 / 3])
    rates.add(6.0, 0)  # a new daemon
    rates.add(7.0, 5)
    assert rates.values[-1] == 5.0
    rates.add(7.0, 6)
    assert rates.values[-1] == 5.0
